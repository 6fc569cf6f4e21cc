// Two videos with one picture, over and over: one of them is seen and heard, and the other goes on where it was left.

const SIDES = ["left", "right"];
const LEAP_S = 1; // between two looks at the clock, which come four times a second: more was not heard but skipped

export class Player {
  /** `videos` by side; `changed()` hears of every change, `failed()` of a video that cannot be loaded. */
  constructor(videos, changed, failed) {
    this.videos = videos;
    this.side = "left";
    this.changed = changed;
    this.last = null;
    for (const side of SIDES) {
      const video = videos[side];
      for (const name of ["play", "pause", "loadedmetadata", "seeked"]) video.addEventListener(name, changed);
      video.addEventListener("timeupdate", () => this.#listen(side));
      video.addEventListener("seeking", () => (this.last = null));
      video.addEventListener("error", failed);
    }
  }

  load(addresses) {
    this.heard = { left: 0, right: 0 };
    this.last = null;
    for (const side of SIDES) {
      this.videos[side].src = addresses[side];
      this.videos[side].load();
    }
    this.#show("left");
  }

  /** Load again what failed. */
  reload() {
    for (const side of SIDES) if (this.videos[side].error) this.videos[side].load();
  }

  get video() {
    return this.videos[this.side];
  }

  get playing() {
    return !this.video.paused;
  }

  get seconds() {
    const { duration } = this.video;
    return Number.isFinite(duration) ? duration : 0;
  }

  /** Hear one side from where the other is; hearing it already, pause. */
  hear(side) {
    if (side === this.side && this.playing) {
      this.video.pause();
      return;
    }
    const { currentTime } = this.video;
    if (side !== this.side) {
      this.video.pause();
      this.#show(side);
    }
    this.seek(currentTime);
    this.video.play().catch(() => {}); // the page shows that nothing plays
  }

  toggle() {
    this.hear(this.side);
  }

  pause() {
    this.video.pause();
  }

  seek(seconds) {
    if (this.video.currentTime !== seconds) this.video.currentTime = seconds;
  }

  #show(side) {
    this.side = side;
    this.last = null;
    for (const one of SIDES) this.videos[one].classList.toggle("shown", one === side);
    this.changed();
  }

  #listen(side) {
    const { currentTime } = this.videos[side];
    if (side === this.side) {
      const passed = currentTime - (this.last ?? currentTime);
      if (passed > 0 && passed < LEAP_S) this.heard[side] += passed;
      this.last = currentTime;
    }
    this.changed();
  }
}
