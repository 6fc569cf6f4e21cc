// A picture of a track that grows as its music arrives; what was played is in the accent colour.

import { BINS } from "./track.js";

const BAR = 3; // CSS pixels
const GAP = 2;

export class Wave {
  #canvas;
  #drawing;
  #colours;

  constructor(canvas) {
    this.#canvas = canvas;
    this.#drawing = canvas.getContext("2d");
    this.#read();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#read());
  }

  #read() {
    const style = getComputedStyle(this.#canvas);
    this.#colours = Object.fromEntries(["accent", "bar", "rest"].map((name) => [name, style.getPropertyValue(`--${name}`)]));
  }

  /** Draw `track`, or an empty line for null, with `position` in seconds. */
  draw(track, position) {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const scale = devicePixelRatio || 1;
    const [wide, high] = [Math.round(width * scale), Math.round(height * scale)];
    if (this.#canvas.width !== wide || this.#canvas.height !== high) Object.assign(this.#canvas, { width: wide, height: high });
    this.#drawing.setTransform(scale, 0, 0, scale, 0, 0);
    this.#drawing.clearRect(0, 0, width, height);
    const bars = Math.floor(width / (BAR + GAP));
    for (let bar = 0; bar < bars; bar++) this.#bar(track, position, bar, bars, height);
  }

  #bar(track, position, bar, bars, height) {
    const begin = track ? (bar / bars) * track.seconds : 0;
    const there = track && begin < track.available;
    const peak = there ? loudest(track.peaks, bar / bars, (bar + 1) / bars) : 0;
    const tall = Math.max(BAR, Math.sqrt(peak) * height);
    this.#drawing.fillStyle = there ? (begin < position ? this.#colours.accent : this.#colours.bar) : this.#colours.rest;
    this.#drawing.beginPath();
    this.#drawing.roundRect(bar * (BAR + GAP), (height - tall) / 2, BAR, tall, BAR / 2);
    this.#drawing.fill();
  }
}

function loudest(peaks, from, to) {
  let most = 0;
  for (let bin = Math.floor(from * BINS); bin < Math.ceil(to * BINS); bin++) most = Math.max(most, peaks[bin]);
  return most;
}
