// Music over a muted picture. The clock of the sound leads and the picture follows; sound that is late is waited for.

const LEAD_S = 0.06; // from deciding to play until the first sample sounds
const FIRST_WAIT_S = 0.5; // of sound that must be there to begin; doubled whenever it ran out
const LONGEST_WAIT_S = 8;
const TICK_MS = 80;
const JUMP_S = 0.3; // a picture further off than this is put right at once, a nearer one by its speed
const NEAR_S = 0.03;

/** `changed()` is called whenever `state` does: empty, waiting, playing, paused, ended, or blocked by the browser. */
export class Player {
  #video;
  #changed;
  #context = null;
  #sources = new Set();
  #track = null;
  #wanted = false; // somebody wants to hear it
  #sounding = false; // it is heard
  #at = 0; // position, in seconds, when it began to sound or was stopped
  #since = 0; // the context's time then
  #scheduled = 0; // samples that were handed over
  #enough = FIRST_WAIT_S;
  #timer = 0;

  constructor(video, changed) {
    this.#video = video;
    this.#changed = changed;
  }

  /** Call this from a click: browsers let nothing sound that nobody asked for. */
  unlock(rate = this.#track?.rate ?? this.#context?.sampleRate ?? 16000) {
    if (this.#context?.sampleRate !== rate) {
      this.#context?.close();
      this.#context = new AudioContext({ sampleRate: rate }); // the music's own rate: chunks then meet without a seam
      this.#context.onstatechange = () => this.#changed();
    }
    this.#context.resume().catch(() => {});
  }

  get state() {
    if (!this.#track) return "empty";
    if (this.#wanted && this.#context.state === "suspended") return "blocked";
    if (this.#sounding) return "playing";
    if (this.#wanted) return "waiting";
    return this.#track.complete && this.#at >= this.#track.seconds ? "ended" : "paused";
  }

  /** Seconds. */
  get position() {
    if (!this.#sounding) return this.#at;
    const passed = Math.max(0, this.#context.currentTime - this.#since);
    return Math.min(this.#at + passed, this.#track.available);
  }

  get track() {
    return this.#track;
  }

  /** Play `track` from where the one before was, or from `position`. Null: nothing is left to play. */
  choose(track, position = this.position) {
    this.#still();
    this.#track = track;
    this.#at = track ? Math.min(position, track.seconds) : 0;
    if (!track) this.#wanted = false;
    else if (this.#context?.sampleRate !== track.rate) this.unlock(track.rate);
    this.#go();
  }

  play() {
    if (!this.#track) return;
    if (this.state === "ended") this.#at = 0;
    this.#wanted = true;
    this.#enough = FIRST_WAIT_S;
    this.unlock();
    this.#go();
  }

  pause() {
    this.#still();
    this.#wanted = false;
    this.#go();
  }

  toggle() {
    if (this.state === "blocked" || !this.#wanted) this.play();
    else this.pause();
  }

  seek(position) {
    this.#still();
    this.#at = Math.max(0, Math.min(position, this.#track.available));
    this.#go();
  }

  /** The track has more sound, or its end. */
  fed() {
    if (this.#sounding) this.#schedule();
    else this.#go();
  }

  #go() {
    const track = this.#track;
    if (this.#wanted && !this.#sounding && track) {
      const left = track.available - this.#at;
      if (track.complete ? left > 0 : left >= this.#enough) this.#sound();
      else if (track.complete) this.#wanted = false;
    }
    clearInterval(this.#timer);
    if (this.#wanted) this.#timer = setInterval(() => this.#tick(), TICK_MS);
    if (!this.#sounding) this.#show(this.#at);
    this.#changed();
  }

  #sound() {
    const { rate } = this.#track;
    this.#sounding = true;
    this.#since = Math.ceil((this.#context.currentTime + LEAD_S) * rate) / rate; // on a sample
    this.#scheduled = Math.round(this.#at * rate);
    this.#schedule();
    this.#show(this.#at);
    this.#video.play().catch(() => {}); // no picture is no reason for no music
  }

  #schedule() {
    const track = this.#track;
    const first = this.#scheduled;
    const due = this.#since + first / track.rate - this.#at;
    if (this.#context.currentTime > due) {
      this.#starve();
      return;
    }
    if (first >= track.length) return;
    const buffer = this.#context.createBuffer(1, track.length - first, track.rate);
    buffer.copyToChannel(track.samples.subarray(first, track.length), 0);
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    source.connect(this.#context.destination);
    source.onended = () => this.#sources.delete(source);
    this.#sources.add(source);
    source.start(due);
    this.#scheduled = track.length;
  }

  /** The sound ran out before more of it came. */
  #starve() {
    this.#still(this.#scheduled / this.#track.rate);
    this.#enough = Math.min(2 * this.#enough, LONGEST_WAIT_S);
    this.#go();
  }

  #still(position = this.position) {
    this.#at = position;
    this.#sounding = false;
    for (const source of this.#sources) {
      source.onended = null;
      source.stop();
      source.disconnect();
    }
    this.#sources.clear();
    this.#video.pause();
    this.#video.playbackRate = 1;
  }

  #tick() {
    if (!this.#sounding) return;
    const track = this.#track;
    if (this.position * track.rate >= this.#scheduled - 1) {
      if (track.complete && this.#scheduled >= track.length) {
        this.#still(track.seconds);
        this.#wanted = false;
        this.#go();
      } else if (this.#scheduled >= track.length) {
        this.#starve();
      }
      return;
    }
    this.#follow();
  }

  #follow() {
    const video = this.#video;
    if (!video.duration || video.ended || video.seeking || this.#context.state !== "running") return;
    const heard = this.position - (this.#context.outputLatency || 0);
    const ahead = video.currentTime - Math.max(0, heard);
    if (Math.abs(ahead) > JUMP_S) this.#show(heard);
    else video.playbackRate = Math.abs(ahead) < NEAR_S ? 1 : 1 - Math.max(-0.1, Math.min(0.1, ahead));
    if (video.paused) video.play().catch(() => {});
  }

  #show(position) {
    if (this.#track && this.#video.duration) this.#video.currentTime = Math.max(0, Math.min(position, this.#video.duration - 0.02));
  }
}
