// What a person is told when something fails: a title, a text, and the way on.

const TITLES = {
  "unusable-video": ["This video cannot be used", "video"],
  "no-video": ["There is no video", "video"],
  "too-large": ["This video is too large", "video"],
  "unusable-prompt": ["The model cannot follow these words", "words"],
  "invalid-fields": ["A setting cannot be used", "settings"],
  "no-such-model": ["That model is not served any more", "settings"],
  "upload-too-slow": ["Sending the video took too long", "retry"],
  "key-missing": ["This service needs a key", "key"],
  "key-unknown": ["This key is not known", "key"],
  "key-expired": ["This key has expired", "key"],
  "no-such-generation": ["This music is no longer kept", "retry"],
  "deadline-passed": ["The music was not done in time", "settings"],
};
const ACTIONS = {
  video: "Choose another video",
  words: "Change the words",
  settings: "Change the settings",
  key: "Enter a key",
  retry: "Try again",
};
const BROKEN = "Nothing that was finished is lost. The same request makes the same music again.";

/** [title, text, action, what to write on its button]. */
export function told(problem) {
  const [title, action] = problem.kind === "connection" ? ["The connection broke", "retry"] : known(problem);
  const text = problem.kind === "connection" ? BROKEN : problem.message.replace(/^the video cannot be used: /, "");
  return [title, sentence(text), action, ACTIONS[action]];
}

function known(problem) {
  return TITLES[problem.kind] ?? [problem.status === 429 ? "The service is full" : "Something went wrong", "retry"];
}

function sentence(text) {
  const trimmed = text.trim();
  return trimmed && trimmed[0].toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
}
