// The takes that can be compared: one row each, with its files once it is done.

import { takeFile } from "./api.js";

const FILES = { mp4: ["Video", "MP4"], wav: ["Sound", "WAV"], ogg: ["Sound", "OGG"], json: ["Origin", "JSON"] };

/** `chosen(take)` when a person picks one; `attempt(work)` runs what may need a key or patience. */
export class Takes {
  #list;
  #chosen;
  #attempt;
  all = [];

  constructor(list, chosen, attempt) {
    this.#list = list;
    this.#chosen = chosen;
    this.#attempt = attempt;
  }

  /** The take whose music is played, or undefined. */
  get current() {
    return this.all.find((take) => take.radio.checked);
  }

  clear() {
    this.drop(this.all);
  }

  drop(gone) {
    for (const take of gone) take.row.remove();
    this.all = this.all.filter((take) => !gone.includes(take));
    if (this.all.length && !this.current) this.pick(this.all[0]);
  }

  pick(take) {
    take.radio.checked = true;
  }

  /** A row for music that is to come from `seed`. */
  add(seed) {
    const name = `Take ${1 + Math.max(0, ...this.all.map((take) => take.order))}`;
    const take = { order: Number(name.slice(5)), seed, track: null, id: null, number: 0, buttons: {} };
    take.row = element("div", { className: "take" });
    take.radio = element("input", { type: "radio", name: "take", disabled: true });
    take.radio.addEventListener("change", () => this.#chosen(take));
    take.badge = element("em", { textContent: "fits best", hidden: true });
    take.note = element("small", { textContent: `seed ${seed}` });
    const label = element("label", {}, take.radio, element("span", {}, name, take.badge), take.note);
    const files = element("div", { className: "files" });
    for (const [format, [what, kind]] of Object.entries(FILES)) {
      const button = element("button", { type: "button", textContent: kind, disabled: true });
      button.setAttribute("aria-label", `Download ${name}: ${what} (${kind})`);
      button.title = `${what} (${kind})`;
      button.addEventListener("click", () => this.#attempt(() => this.#save(take, format), button));
      take.buttons[format] = button;
      files.append(button);
    }
    take.row.append(label, files);
    this.#list.append(take.row);
    this.all.push(take);
    return take;
  }

  /** The service has made it, as `figures` say; `best` of several. */
  finish(take, id, figures, best) {
    Object.assign(take, { id, number: figures.number, seed: figures.seed });
    take.badge.hidden = !best;
    for (const button of Object.values(take.buttons)) button.disabled = false;
  }

  async #save(take, format) {
    const address = URL.createObjectURL(await takeFile(take.id, take.number, format));
    const link = element("a", { href: address, download: `v2meow-${take.id.slice(0, 8)}-${take.number}.${format}` });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }
}

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}
