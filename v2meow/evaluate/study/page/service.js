// The study's server as the page sees it, and who the rater is to it.

const TOKEN = `v2meow-study:${location.pathname}:rater`;

/** What went wrong; `lasting` says that asking again is of no use. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
    this.lasting = status >= 400 && status < 500 && status !== 408 && status !== 429;
  }
}

/** Values that outlive the page, where the browser allows it; else they live as long as the page. */
export const memory = (() => {
  try {
    localStorage.setItem("v2meow-study", "");
    localStorage.removeItem("v2meow-study");
    return localStorage;
  } catch {
    const values = new Map();
    return {
      getItem: (name) => values.get(name) ?? null,
      setItem: (name, value) => values.set(name, value),
      removeItem: (name) => values.delete(name),
      key: (number) => [...values.keys()][number] ?? null,
      get length() {
        return values.size;
      },
    };
  }
})();

/** Letters and digits that nobody guesses. Not crypto.randomUUID, which exists under https alone. */
export function fresh() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Who rates: as the address says, else as this browser remembers, else somebody new. */
export const token = new URLSearchParams(location.search).get("rater") || memory.getItem(TOKEN) || fresh();

/** Keep the token in this browser and in the address, which can be noted down and opened elsewhere. */
export function remember() {
  memory.setItem(TOKEN, token);
  const address = new URL(location.href);
  address.searchParams.set("rater", token);
  history.replaceState(null, "", address);
}

/** The answer's JSON. Throws a Problem. Addresses are relative, so that a study may live under a prefix. */
async function ask(path, options) {
  let response;
  try {
    const headers = { Authorization: `Bearer ${token}` };
    response = await fetch(path, { ...options, headers, signal: AbortSignal.timeout(20_000) });
  } catch {
    throw new Problem(0, "there is no connection to the study");
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Problem(response.status, String(body?.detail ?? "the study has trouble"));
  return body;
}

export const plan = () => ask("v1/plan", { cache: "no-store" });

/** `keepalive`: a rating goes out even when the page is closed right after. */
export const send = (rating) => ask("v1/ratings", { method: "POST", body: JSON.stringify(rating), keepalive: true });
