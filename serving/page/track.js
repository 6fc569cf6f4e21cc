// The music of one take as it arrives: samples for the ear, peaks for the eye.

export const BINS = 1200;

/** `seconds` of mono sound at `rate`, filled from the beginning. */
export class Track {
  constructor(seconds, rate) {
    this.rate = rate;
    this.samples = new Float32Array(Math.max(1, Math.ceil(seconds * rate)));
    this.peaks = new Float32Array(BINS);
    this.length = 0; // samples that are there
    this.complete = false;
  }

  /** All of it, in seconds. */
  get seconds() {
    return (this.complete ? this.length : this.samples.length) / this.rate;
  }

  /** What is there, in seconds. */
  get available() {
    return this.length / this.rate;
  }

  /** Add 16 bit little-endian samples in base64. */
  append(base64) {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const count = Math.min(bytes.length >> 1, this.samples.length - this.length);
    for (let n = 0; n < count; n++) {
      const value = view.getInt16(2 * n, true) / 32767;
      const bin = Math.floor((this.length * BINS) / this.samples.length);
      this.peaks[bin] = Math.max(this.peaks[bin], Math.abs(value));
      this.samples[this.length++] = value;
    }
  }
}
