// The service as the page sees it: requests with a key, lines of JSON as they come, and one class for all that fails.

const KEY = "v2meow-key";

/** What went wrong: `kind` is the last part of the problem's type, `retryAfter` seconds or undefined. */
export class Problem extends Error {
  constructor(kind, status, detail, retryAfter) {
    super(detail);
    Object.assign(this, { kind, status, retryAfter });
  }

  static of(body, status, header) {
    const kind = String(body?.type ?? "").split(":").pop() || "unknown";
    const after = Number(body?.retry_after ?? header ?? NaN);
    return new Problem(kind, body?.status ?? status, String(body?.detail ?? ""), Number.isFinite(after) ? after : undefined);
  }
}

/** The API key, kept in this tab alone. */
export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** A response that is well. Addresses are relative, so that the service may live under a prefix. */
async function ask(path, options = {}) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    throw broken(error);
  }
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw Problem.of(body, response.status, response.headers.get("Retry-After"));
  }
  return response;
}

const broken = (error) => (error.name === "AbortError" ? error : new Problem("connection", 0, ""));

export const models = async () => (await ask("v1/models")).json();

export const takeFile = async (id, take, format) => (await ask(`v1/generations/${id}/takes/${take}?format=${format}`)).blob();

/** Everything that happens while music is made for `form`, until `done`. Throws a Problem, in the middle too. */
export async function* generate(form, signal) {
  const response = await ask("v1/generations", { method: "POST", body: form, signal });
  let ended = false;
  for await (const line of lines(response.body)) {
    const event = JSON.parse(line);
    if (event.event === "error") throw Problem.of(event, 0);
    ended = event.event === "done";
    yield event;
  }
  if (!ended) throw new Problem("connection", 0, "");
}

async function* lines(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const parts = []; // of a line that has not ended
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const pieces = decoder.decode(value, { stream: true }).split("\n");
      while (pieces.length > 1) {
        yield parts.splice(0).join("") + pieces.shift();
      }
      parts.push(pieces[0]);
    }
  } catch (error) {
    throw broken(error);
  } finally {
    reader.cancel().catch(() => {});
  }
}
