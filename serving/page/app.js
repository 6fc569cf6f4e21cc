// The page: a video and words go in, music is heard as it comes, takes are compared and saved.

import { Problem, generate, models } from "./api.js";
import { askKey, patiently, showKey } from "./door.js";
import { told } from "./messages.js";
import { $, say } from "./page.js";
import { Player } from "./player.js";
import { Takes } from "./takes.js";
import { Track } from "./track.js";
import { Wave } from "./wave.js";

const STAGES = ["semantic", "coarse", "fine"];
const ICONS = {
  play: "M8 5v14l11-7z",
  pause: "M7 5h3.5v14H7zM13.5 5H17v14h-3.5z",
  replay: "M12 5V1.5L6.5 6 12 10.5V7a5 5 0 1 1-5 5H5a7 7 0 1 0 7-7z",
};
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const player = new Player($.video, refresh);
const wave = new Wave($.canvas);
const takes = new Takes($.takes, listen, attempt);
let file = null;
let making = null; // the AbortController of music under way
let onAlert = null;

// ---- the video

function choose(chosen) {
  if (!chosen || making) return;
  file = chosen;
  URL.revokeObjectURL($.video.src);
  $.video.src = URL.createObjectURL(file);
  $.video.loop = true;
  $.video.hidden = false;
  $["no-picture"].hidden = $.drop.hidden = true;
  $.name.textContent = file.name;
  $.whole.textContent = "all of the video";
  $.change.hidden = false;
  takes.clear();
  player.choose(null);
  if (!calm.matches) $.video.play().catch(() => {});
  compose();
}

$.file.addEventListener("change", () => {
  choose($.file.files[0]);
  $.file.value = "";
});
$.change.addEventListener("click", () => $.file.click());
$.video.addEventListener("loadedmetadata", () => {
  if (Number.isFinite($.video.duration)) $.whole.textContent = `of ${$.video.duration.toFixed(1)}`;
});
$.video.addEventListener("error", () => {
  $.video.hidden = true;
  $["no-picture"].hidden = false;
  refresh();
});
for (const name of ["play", "pause"]) $.video.addEventListener(name, refresh);
$.video.addEventListener("click", toggle);
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault(); // a video dropped beside the frame must not replace the page
    $.frame.classList.toggle("over", name === "dragover" && !making);
    if (name === "drop") choose(event.dataTransfer.files[0]);
  });
}

// ---- what is shown

function compose() {
  $.form.hidden = false;
  $.work.hidden = true;
  $.back.hidden = takes.all.length === 0;
  refresh();
}

function showWork() {
  $.form.hidden = true;
  $.work.hidden = false;
  const busy = making !== null;
  $["work-title"].textContent = busy ? "Making music" : "Your music";
  $["making-actions"].hidden = !busy;
  $["done-actions"].hidden = busy;
  $.change.disabled = busy;
  refresh();
}

function alarm(problem, retry) {
  const [title, text, action, label] = told(problem);
  const ways = {
    video: () => $.file.click(),
    words: () => reveal($.prompt),
    settings: () => reveal($.seconds),
    key: async () => (await askKey("")) && retry(),
    retry,
  };
  $["alert-title"].textContent = title;
  $["alert-text"].textContent = text;
  $["alert-action"].textContent = label;
  onAlert = ways[action];
  $.alert.hidden = false;
  $.alert.scrollIntoView({ block: "nearest" });
}

$["alert-action"].addEventListener("click", () => {
  $.alert.hidden = true;
  onAlert();
});

function reveal(field) {
  compose();
  const folded = field.closest("details");
  if (folded) folded.open = true;
  field.focus();
}

function refresh() {
  const state = player.state;
  const playing = state === "empty" ? !$.video.paused : state === "playing" || state === "waiting";
  const name = playing ? "Pause" : state === "ended" ? "Play again" : "Play";
  $.play.disabled = !file || (state === "empty" && $.video.hidden);
  $.play.setAttribute("aria-label", name);
  $["play-icon"].setAttribute("d", playing ? ICONS.pause : state === "ended" ? ICONS.replay : ICONS.play);
  $.frame.classList.toggle("waiting", state === "waiting");
  $.seek.disabled = !player.track?.length;
  draw();
}

function draw() {
  const { track, position } = player;
  const seconds = track?.seconds ?? 0;
  $.time.textContent = `${clock(position)} / ${clock(seconds)}`;
  $.seek.max = seconds || 1;
  $.seek.value = position;
  $.seek.setAttribute("aria-valuetext", `${position.toFixed(0)} of ${seconds.toFixed(0)} seconds`);
  wave.draw(track, position);
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

function animate() {
  if (player.state === "playing") draw();
  requestAnimationFrame(animate);
}

// ---- hearing

function toggle() {
  if (player.state !== "empty") player.toggle();
  else if (!file) $.file.click();
  else if ($.video.paused) $.video.play().catch(() => {});
  else $.video.pause();
}

function listen(take) {
  player.choose(take.track);
}

$.play.addEventListener("click", toggle);
$.seek.addEventListener("input", () => player.seek(Number($.seek.value)));

// ---- making

$.form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!file) {
    $.file.click();
    return;
  }
  takes.clear();
  make(order(Number(new FormData($.form).get("takes"))));
});
$.another.addEventListener("click", () => make({ ...order(1), seed: newSeed() }));
$.again.addEventListener("click", () => {
  player.pause();
  reveal($.prompt);
});
$.back.addEventListener("click", showWork);
$.cancel.addEventListener("click", () => making?.abort());

const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000; // short enough to note down

function order(count) {
  const { value: model } = $.model;
  const seed = $.seed.value === "" ? newSeed() : $.seed.value;
  return { video: file, prompt: $.prompt.value.trim(), seconds: $.seconds.value, seed, takes: count, model };
}

/** Make what `wanted` says, and play it while it comes; whatever goes wrong, say so and offer a way on. */
async function make(wanted) {
  $.alert.hidden = true;
  making = new AbortController();
  const fresh = Array.from({ length: wanted.takes }, (_, n) => takes.add(Number(wanted.seed) + n));
  takes.pick(fresh[0]);
  $.video.loop = false;
  player.choose(null);
  player.unlock(); // this is still the click
  showWork();
  $["work-title"].focus({ preventScroll: true });
  try {
    await patiently(() => perform(wanted, fresh, making.signal), making.signal);
    making = null;
    say(fresh.length > 1 ? `${fresh.length} takes are ready: compare them.` : "The music is ready.");
    showWork();
  } catch (error) {
    making = null;
    giveUp(fresh);
    if (error.name !== "AbortError") alarm(problemOf(error), () => make(wanted));
  }
}

function giveUp(fresh) {
  player.choose(null);
  takes.drop(fresh);
  $.change.disabled = false;
  if (!takes.all.length) {
    compose();
    return;
  }
  say("The earlier takes are still here.");
  player.choose(takes.current.track, 0);
  showWork();
}

async function perform(wanted, fresh, signal) {
  const form = new FormData();
  for (const [name, value] of Object.entries({ ...wanted, format: "events" })) if (value !== "") form.append(name, value);
  const shares = fresh.map(() => ({ semantic: 0, coarse: 0, fine: 0 }));
  progress(shares);
  say(`Sending the video, ${(wanted.video.size / 2 ** 20).toFixed(1)} MB …`);
  for await (const event of generate(form, signal)) {
    if (event.event === "begun") begin(event, fresh);
    if (event.event === "progress") {
      shares[event.take - 1][event.stage] = event.share;
      progress(shares);
    }
    if (event.event === "audio") hear(fresh[event.take - 1], event.pcm);
    if (event.event === "done") finish(event, fresh);
  }
}

function begin(event, fresh) {
  say("Making music …");
  for (const take of fresh) {
    take.track = new Track(event.seconds, event.sample_rate);
    take.radio.disabled = false;
  }
  player.choose(takes.current.track, 0);
  player.play();
}

function hear(take, pcm) {
  take.track.append(pcm);
  if (player.track === take.track) {
    player.fed();
    refresh();
  }
}

function progress(shares) {
  const means = STAGES.map((stage) => shares.reduce((sum, one) => sum + one[stage], 0) / shares.length);
  for (const [n, stage] of STAGES.entries()) {
    $[stage].value = means[n];
    $[`${stage}-share`].textContent = `${Math.floor(100 * means[n])} %`;
  }
  const quarter = Math.floor((4 * means.reduce((sum, one) => sum + one)) / STAGES.length);
  if (quarter > 0) say(quarter < 4 ? `Making music: ${25 * quarter} % done.` : "Nearly done …");
}

function finish(event, fresh) {
  for (const take of fresh) {
    take.track.complete = true;
    const figures = event.takes.find((one) => one.number === fresh.indexOf(take) + 1);
    takes.finish(take, event.id, figures, fresh.length > 1 && event.takes[0] === figures);
  }
  player.fed();
}

// ---- asking the service

/** What a button begins that asks the service for something. */
async function attempt(work, button) {
  $.alert.hidden = true;
  button.disabled = true;
  try {
    await patiently(work);
  } catch (error) {
    alarm(problemOf(error), () => attempt(work, button));
  } finally {
    button.disabled = false;
  }
}

function problemOf(error) {
  if (error instanceof Problem) return error;
  console.error(error);
  return new Problem("page", 0, "the page made a mistake: load it again");
}

async function showModels() {
  try {
    const { models: served } = await models();
    $.served.textContent = served.map((one) => `Model ${one.version}`).join(" · ");
    $["model-choice"].hidden = served.length < 2;
    const names = served.length < 2 ? [] : served.map((one) => one.name);
    $.model.replaceChildren(new Option("as the service chooses", ""), ...names.map((name) => new Option(name, name)));
  } catch (error) {
    if (error.status !== 401) $.served.textContent = told(problemOf(error))[0];
  }
}

new ResizeObserver(draw).observe($.canvas);
showKey();
showModels();
compose();
animate();
