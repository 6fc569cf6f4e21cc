// Ratings on their way: kept in the browser until the server has them, and sent again until it does.

import { Problem, fresh, memory, send, token } from "./service.js";

const PATIENCE_MS = [500, 1000, 2000, 4000, 8000, 15_000];
const RATED = 409; // the question is answered: by this rating from another tab, or by an earlier one

export class Outbox {
  /** `told(waiting, problem)` hears of every change. */
  constructor(study, told) {
    this.prefix = `v2meow-study:${study}:${token}:`;
    this.told = told;
    this.failures = 0;
    this.timer = null;
    this.sending = false;
    window.addEventListener("online", () => this.flush());
  }

  /** What waits, oldest first. Each has an entry of its own, so that two tabs never overwrite each other's. */
  get waiting() {
    const names = Array.from({ length: memory.length }, (_, n) => memory.key(n)).filter((name) => name?.startsWith(this.prefix));
    const found = names.map((name) => JSON.parse(memory.getItem(name) ?? "null")).filter((one) => one !== null);
    return found.sort((one, other) => one.since - other.since);
  }

  put(rating) {
    const key = fresh();
    memory.setItem(this.prefix + key, JSON.stringify({ since: Date.now(), rating: { ...rating, key } }));
  }

  /** Send what waits, one after the other; what fails is tried again later, ever less often. */
  async flush() {
    if (this.sending) return;
    clearTimeout(this.timer);
    this.sending = true;
    let problem = null;
    let progress = false;
    for (const { rating } of this.waiting) {
      const refused = await this.#sent(rating);
      problem = refused ?? problem;
      if (refused && !refused.lasting) break;
      if (!refused) {
        memory.removeItem(this.prefix + rating.key);
        progress = true;
      }
    }
    this.sending = false;
    this.failures = (progress ? 0 : this.failures) + (problem ? 1 : 0);
    const waiting = this.waiting.length;
    if (waiting && !problem?.lasting) {
      const pause = problem ? PATIENCE_MS[Math.min(this.failures, PATIENCE_MS.length) - 1] * (0.75 + Math.random() / 2) : 0;
      this.timer = setTimeout(() => this.flush(), pause);
    }
    this.told(waiting, problem);
  }

  /** null when the server has an answer to the question, else the Problem. */
  async #sent(rating) {
    try {
      await send(rating);
      return null;
    } catch (error) {
      const problem = error instanceof Problem ? error : new Problem(0, String(error));
      return problem.status === RATED ? null : problem;
    }
  }
}
