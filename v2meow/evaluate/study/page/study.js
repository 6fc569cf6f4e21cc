// The page as a whole: pairs one after the other, answers into the outbox, and on where the rater left off.

import { Outbox } from "./outbox.js";
import { Player } from "./player.js";
import { Problem, plan, remember } from "./service.js";

const $ = Object.fromEntries([...document.querySelectorAll("[id]")].map((one) => [one.id, one]));
const SIDES = ["left", "right"];
const LETTERS = { left: "A", right: "B" };
const END_S = 0.3; // clocks of players end a little before the video does

let study = null;
let outbox = null;
let answered = new Set(); // "pair question", by the server or in the outbox
let place = 0; // of the pair that is shown
const player = new Player({ left: $.left, right: $.right }, refresh, () => study && alarm("The video could not be loaded.", () => player.reload()));

// ---- the study

async function begin() {
  $.alert.hidden = true;
  try {
    study = await plan();
  } catch (error) {
    const text = error instanceof Problem ? error.message : "the page made a mistake";
    alarm(`${text[0].toUpperCase()}${text.slice(1)}.`, begin);
    return;
  }
  remember();
  outbox = new Outbox(study.study, showSaved);
  answered = new Set(study.done.map(([pair, question]) => `${pair} ${question}`));
  for (const { rating } of outbox.waiting) answered.add(`${rating.pair} ${rating.question}`);
  document.title = $.title.textContent = study.title;
  $.intro.textContent = study.intro;
  $.number.textContent = study.pairs.length;
  $.questions.replaceChildren(...study.questions.map(drawn));
  outbox.flush();
  place = next(0);
  $.start.textContent = place > 0 ? "Go on" : "Start";
  $.welcome.hidden = place === study.pairs.length;
  if ($.welcome.hidden) end();
}

const complete = (pair) => study.questions.every(({ name }) => answered.has(`${pair.id} ${name}`));

/** The first pair from there on that is not answered; their number where all are. */
function next(from) {
  const found = study.pairs.findIndex((pair, n) => n >= from && !complete(pair));
  return found < 0 ? study.pairs.length : found;
}

function drawn({ name, words }) {
  const question = $.question.content.cloneNode(true);
  question.querySelector("legend").textContent = words;
  for (const input of question.querySelectorAll("input")) input.name = name;
  return question;
}

// ---- one pair

function show() {
  const pair = study.pairs[place];
  $.welcome.hidden = $.alert.hidden = true;
  $.pair.hidden = $.place.hidden = false;
  $.form.reset();
  $.count.textContent = `${place + 1} of ${study.pairs.length}`;
  $["pair-title"].textContent = `Pair ${place + 1} of ${study.pairs.length}`;
  $.share.value = place / study.pairs.length;
  player.load(pair);
  $["pair-title"].focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function end() {
  player.pause();
  $.pair.hidden = $.welcome.hidden = true;
  $.place.hidden = $.done.hidden = false;
  $.share.value = 1;
  $.count.textContent = `${study.pairs.length} of ${study.pairs.length}`;
  showSaved(outbox.waiting.length, null);
  $["done-title"].focus({ preventScroll: true });
}

/** Whether a side was heard for long enough; a short video, about once. */
function heardEnough(side) {
  const length = $[side].duration;
  const wanted = Math.min(study.listen_s || 0.1, Number.isFinite(length) ? Math.max(length - END_S, 0.1) : Infinity);
  $[`${side}-heard`].value = player.heard[side] / wanted;
  return player.heard[side] >= wanted;
}

function refresh() {
  if (!study || !player.heard) return;
  for (const side of SIDES) {
    const heard = side === player.side && player.playing;
    $[`hear-${side}`].setAttribute("aria-pressed", heard);
    $[`${side}-does`].textContent = heard ? "Pause" : "Listen";
  }
  $.frame.classList.toggle("tall", player.video.videoHeight > player.video.videoWidth);
  const missing = SIDES.filter((side) => !heardEnough(side)).map((side) => LETTERS[side]);
  for (const input of $.form.querySelectorAll("input")) input.disabled = missing.length > 0;
  const answers = new FormData($.form);
  const open = study.questions.filter(({ name }) => !answers.has(name));
  $.next.disabled = missing.length > 0 || open.length > 0;
  const hint = missing.length ? (missing.length > 1 ? "Listen to both first." : `Listen to ${missing[0]}, too.`) : open.length ? "Which one, and how much more?" : "";
  if ($.hint.textContent !== hint) $.hint.textContent = hint;
  $.seek.max = player.seconds || 1;
  $.seek.value = player.video.currentTime;
  $.seek.setAttribute("aria-valuetext", `${player.video.currentTime.toFixed(0)} of ${player.seconds.toFixed(0)} seconds`);
}

function submit(event) {
  event.preventDefault();
  if ($.next.disabled) return;
  player.pause();
  const pair = study.pairs[place];
  const heard = { heard_left_s: player.heard.left, heard_right_s: player.heard.right };
  for (const [question, choice] of new FormData($.form)) {
    if (answered.has(`${pair.id} ${question}`)) continue;
    outbox.put({ pair: pair.id, question, choice: Number(choice), ...heard });
    answered.add(`${pair.id} ${question}`);
  }
  outbox.flush();
  place = next(place + 1);
  if (place === study.pairs.length) place = next(0);
  if (place < study.pairs.length) show();
  else end();
}

// ---- what is told

function alarm(text, again) {
  $["alert-text"].textContent = text;
  $["alert-action"].onclick = () => {
    $.alert.hidden = true;
    again();
  };
  $.alert.hidden = false;
}

function showSaved(waiting, problem) {
  const few = waiting === 1 ? "1 rating waits" : `${waiting} ratings wait`;
  const saved = answered.size ? "All your ratings are saved." : "";
  $.saved.textContent = waiting === 0 ? saved : problem ? `${few} for the connection: leave this page open.` : "Saving …";
  if (problem?.lasting) alarm(`A rating was refused: ${problem.message}.`, () => outbox.flush());
  $["done-text"].textContent = waiting ? "Please leave this page open until your last ratings are saved." : "All your ratings are saved. You can close this page.";
  $.thanks.textContent = study.thanks;
  $.thanks.hidden = waiting > 0 || !study.thanks;
}

// ---- hands and keys

$.start.addEventListener("click", show);
$.form.addEventListener("submit", submit);
$.form.addEventListener("change", refresh);
for (const side of SIDES) {
  $[`hear-${side}`].addEventListener("click", () => player.hear(side));
  $[side].addEventListener("click", () => player.toggle());
}
$.seek.addEventListener("input", () => player.seek(Number($.seek.value)));

document.addEventListener("keydown", (event) => {
  if ($.pair.hidden || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const key = event.key.toLowerCase();
  const busy = event.target.closest("button, input"); // these have a use for Space and Enter themselves
  if (key === "a" || key === "b") player.hear(key === "a" ? "left" : "right");
  else if (key === " " && !busy) player.toggle();
  else if (key === "enter" && !busy) $.form.requestSubmit();
  else if (key >= "1" && key <= "5") answer(Number(key) - 3);
  else return;
  event.preventDefault();
});

/** Answer the question that has the focus, else the first open one. */
function answer(choice) {
  const answers = new FormData($.form);
  const focused = document.activeElement?.closest("fieldset") && document.activeElement.name;
  const name = focused || study.questions.find((one) => !answers.has(one.name))?.name;
  const input = name && $.form.querySelector(`input[name="${name}"][value="${choice}"]`);
  if (!input || input.disabled) return;
  input.checked = true;
  refresh();
}

begin();
