// The elements of the page by their ids, and its one line of status that screen readers speak.

export const $ = Object.fromEntries([...document.querySelectorAll("[id]")].map((one) => [one.id, one]));

export function say(text) {
  if ($.status.textContent !== text) $.status.textContent = text;
}
