// Getting past the service's door: waiting while it is full, and asking a person for a key.

import { key } from "./api.js";
import { told } from "./messages.js";
import { $, say } from "./page.js";

const TRIES = 20; // while the service is full

/** Do `work`; when the service is full wait as long as it says and do it again, when it wants a key ask for one. */
export async function patiently(work, signal) {
  for (let tried = 1; ; tried++) {
    try {
      return await work();
    } catch (error) {
      if (error.status === 401 && (await askKey(error.kind === "key-missing" ? "" : told(error)[0]))) continue;
      if (![429, 503].includes(error.status) || error.retryAfter === undefined || tried === TRIES) throw error;
      await wait(error.retryAfter, signal);
    }
  }
}

async function wait(seconds, signal) {
  say("The service is full at present. This page tries again by itself.");
  try {
    for (let left = Math.ceil(seconds); left > 0; left--) {
      $.countdown.textContent = `In ${left} s …`;
      await pause(1000, signal);
    }
  } finally {
    $.countdown.textContent = "";
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

/** A key from the person, or false. */
export function askKey(reason) {
  $["key-reason"].textContent = reason ? `${reason}.` : "";
  $.key.value = "";
  $["key-dialog"].returnValue = "";
  $["key-dialog"].showModal();
  return new Promise((resolve) => {
    $["key-dialog"].addEventListener("close", () => {
      const given = $["key-dialog"].returnValue === "use" ? $.key.value.trim() : "";
      if (given) key.set(given);
      $.key.value = "";
      showKey();
      resolve(Boolean(given));
    }, { once: true });
  });
}

export function showKey() {
  $["forget-key"].hidden = !key.get();
}

$["forget-key"].addEventListener("click", () => {
  key.forget();
  showKey();
});
