// The chat page: one conversation, streamed from /v1/chat/completions of the server that sent this page.

import { WORDS } from "/static/words.js";

const DEFAULTS = { system: "", temperature: "0.2", top_p: "1", max_tokens: "", seed: "" };
const byId = (id) => document.getElementById(id);
const scroller = byId("scroller"), list = byId("messages"), welcome = byId("welcome"), prompt = byId("prompt");
const sendButton = byId("send"), drawer = byId("settings"), form = byId("settings-form"), toEnd = byId("to-end");

let server = { model: "", why: false, key_required: false };
let language = stored("language", navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
let settings = { ...DEFAULTS, ...stored("settings", {}) };
let messages = stored("messages", []); // {role, content, figures?, finish?, dropped?}
let running = null; // the AbortController of the answer being written

// ---- small tools

function stored(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(`athanor.${name}`)) ?? otherwise;
  } catch {
    return otherwise; // storage is off or holds something unreadable: start fresh
  }
}

function store(name, value) {
  try {
    localStorage.setItem(`athanor.${name}`, JSON.stringify(value));
  } catch (problem) {
    console.warn("the browser keeps nothing:", problem.name); // private mode or full: the page still works
  }
}

function readKey() {
  try {
    return sessionStorage.getItem("athanor.key") ?? "";
  } catch {
    return "";
  }
}

function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

function button(iconName, label, action) {
  return element("button", { type: "button", class: "tool", title: label, onclick: action }, icon(iconName), element("span", {}, label));
}

// ---- text: code blocks, inline code and bold; everything else is shown as it is

function formatted(text) {
  const parts = document.createDocumentFragment();
  const sections = text.split(/^```/m);
  sections.forEach((section, place) => {
    if (place % 2 === 1) {
      const code = section.replace(/^[^\n]*\n?/, "").replace(/\n$/, ""); // the first line names the language
      parts.append(element("pre", {}, element("code", {}, code)));
      return;
    }
    const after = place > 0 ? section.replace(/^\n+/, "") : section; // the code block brings its own distance
    parts.append(...inline(place < sections.length - 1 ? after.replace(/\n+$/, "") : after));
  });
  return parts;
}

function inline(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).map((part) => {
    if (part.length > 2 && part.startsWith("`") && part.endsWith("`")) return element("code", {}, part.slice(1, -1));
    if (part.length > 4 && part.startsWith("**") && part.endsWith("**")) return element("strong", {}, part.slice(2, -2));
    return document.createTextNode(part);
  });
}

// ---- the conversation on the page

function userView(message) {
  return element("article", { class: "message user" }, element("div", { class: "text" }, message.content));
}

function answerView(message, isLast) {
  const words = WORDS[language];
  const text = element("div", { class: "text" });
  text.append(formatted(message.content));
  const view = element("article", { class: "message assistant" }, text);
  const asides = { length: words.lengthReached, stopped: words.stopped, stop: message.content ? "" : words.empty };
  for (const aside of [message.dropped ? words.dropped(message.dropped) : "", asides[message.finish] ?? ""]) {
    if (aside) view.append(element("p", { class: "aside" }, aside));
  }
  const actions = element("div", { class: "actions" });
  if (message.content) actions.append(button("copy", words.copy, (event) => copy(message.content, event.currentTarget)));
  if (isLast) actions.append(button("again", words.again, regenerate));
  if (server.why && message.content) actions.append(button("why", words.why, () => showWhy(message.content, view)));
  if (message.figures) actions.append(element("span", { class: "figure" }, words.figures(...message.figures)));
  view.append(actions);
  return view;
}

function problemView(code, detail) {
  const words = WORDS[language];
  const [title, advice] = words.problems[code] ?? words.problems.other;
  const row = element("div", { class: "row" }, element("button", { type: "button", class: "plain", onclick: regenerate }, words.tryAgain));
  if (code === "invalid_api_key") row.append(element("button", { type: "button", class: "plain", onclick: openSettings }, words.openSettings));
  if (code === "context_length_exceeded") row.append(element("button", { type: "button", class: "plain", onclick: newChat }, words.newChat));
  const detailView = detail ? element("p", { class: "detail" }, detail) : null;
  const box = element("div", { class: "problem", role: "alert" }, element("strong", {}, title), element("p", {}, advice), detailView, row);
  return element("article", { class: "message failed" }, box);
}

function show() {
  const views = messages.map((message, place) =>
    message.role === "user" ? userView(message) : answerView(message, place === messages.length - 1));
  list.replaceChildren(...views);
  welcome.hidden = messages.length > 0;
  store("messages", messages);
}

function nearEnd() {
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
}

function scrollToEnd() {
  scroller.scrollTop = scroller.scrollHeight;
  toEnd.hidden = true;
}

// ---- asking and answering

function headers() {
  const key = readKey();
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

function requestBody() {
  const turns = messages.map(({ role, content }) => ({ role, content }));
  if (settings.system.trim()) turns.unshift({ role: "system", content: settings.system });
  const body = { model: server.model, messages: turns, stream: true, stream_options: { include_usage: true } };
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    if (settings[name] !== "") body[name] = Number(settings[name]);
  }
  return body;
}

async function* serverEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (waiting + value).split("\n\n");
    waiting = events.pop();
    for (const event of events) {
      if (event.startsWith("data: ")) yield event.slice(6);
    }
  }
}

class ServerProblem extends Error {
  constructor(code, detail) {
    super(detail);
    this.code = code;
  }
}

async function refusal(response) {
  const error = (await response.json().catch(() => ({})))?.error;
  return new ServerProblem(error?.code ?? "other", error?.message ?? `HTTP ${response.status}`);
}

function ask(question) {
  if (running || !question.trim()) return;
  if (messages.at(-1)?.role === "user") messages.pop(); // its answer failed; the new question replaces it
  messages.push({ role: "user", content: question });
  prompt.value = "";
  fitPrompt();
  answer();
}

function regenerate() {
  if (running) return;
  if (messages.at(-1)?.role === "assistant") messages.pop();
  answer();
}

async function answer() {
  if (running || messages.at(-1)?.role !== "user") return;
  show();
  const conversation = messages;
  const message = { role: "assistant", content: "" };
  const text = element("div", { class: "text" });
  const view = element("article", { class: "message assistant writing", "aria-busy": "true" }, text);
  list.append(view);
  scrollToEnd();
  running = new AbortController();
  showRunning();
  let problem = null;
  try {
    await receive(message, text, running.signal);
  } catch (caught) {
    if (caught.name === "AbortError") message.finish = "stopped";
    else problem = caught;
  }
  running = null;
  showRunning();
  if (conversation === messages) finish(message, problem); // a new chat may have begun meanwhile
}

async function receive(message, text, signal) {
  const started = performance.now(); // the wait for the first token counts, or short answers look absurdly fast
  const response = await fetch("/v1/chat/completions", {
    method: "POST", headers: headers(), body: JSON.stringify(requestBody()), signal,
  }).catch((problem) => {
    throw problem.name === "AbortError" ? problem : new ServerProblem("network", "");
  });
  if (!response.ok) throw await refusal(response);
  message.dropped = Number(response.headers.get("x-athanor-dropped-turns") ?? 0);
  let drawing = 0;
  const draw = () => {
    drawing = 0;
    const follow = nearEnd();
    text.replaceChildren(formatted(message.content));
    if (follow) scrollToEnd();
  };
  try {
    for await (const data of serverEvents(response)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ServerProblem(event.error.code ?? "other", event.error.message);
      const choice = event.choices[0];
      if (choice?.delta.content) {
        message.content += choice.delta.content;
        drawing ||= requestAnimationFrame(draw);
      }
      if (choice?.finish_reason) message.finish = choice.finish_reason;
      if (event.usage) message.figures = figures(event.usage.completion_tokens, performance.now() - started);
    }
  } catch (problem) {
    throw problem instanceof ServerProblem || problem.name === "AbortError" ? problem : new ServerProblem("cut", "");
  } finally {
    cancelAnimationFrame(drawing);
  }
  throw new ServerProblem("cut", "");
}

function figures(tokens, milliseconds) {
  const rate = (tokens * 1000) / milliseconds;
  return [tokens, tokens > 4 && Number.isFinite(rate) ? (rate < 10 ? rate.toFixed(1) : Math.round(rate)) : null];
}

function finish(message, problem) {
  const follow = nearEnd();
  if (message.content || !problem) {
    if (message.content || message.finish !== "stopped") messages.push(message);
  }
  show();
  if (problem) list.append(problemView(problem.code ?? "other", problem.message));
  if (follow) scrollToEnd();
}

function stop() {
  running?.abort();
}

function newChat() {
  stop();
  messages = [];
  show();
  prompt.focus();
}

async function copy(text, target) {
  const words = WORDS[language];
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element("textarea", {}); // plain http on another machine: the old way
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  target.replaceChildren(icon("done"), element("span", {}, words.copied));
  setTimeout(() => target.replaceChildren(icon("copy"), element("span", {}, words.copy)), 1500);
}

// ---- why: the training documents that hold parts of an answer

async function showWhy(text, view) {
  const open = view.querySelector(".why");
  if (open) return open.remove();
  const box = element("section", { class: "why", "aria-live": "polite" }, element("p", {}, WORDS[language].whySearching));
  view.append(box);
  try {
    const response = await fetch("/why", { method: "POST", headers: headers(), body: JSON.stringify({ text }) });
    if (!response.ok) throw await refusal(response);
    const { spans } = await response.json();
    const first = element("p", {}, spans.length ? WORDS[language].whyFound : WORDS[language].whyNothing);
    box.replaceChildren(first, ...spans.map(spanView));
  } catch (problem) {
    const [title, advice] = WORDS[language].problems[problem.code ?? "network"] ?? WORDS[language].problems.other;
    box.replaceChildren(element("p", {}, `${title} ${advice} ${problem.code ? problem.message : ""}`));
  }
  box.scrollIntoView({ block: "nearest", behavior: "smooth" });
}

function spanView(span) {
  const words = WORDS[language];
  const title = element("h3", {}, element("mark", {}, span.text.trim()), element("small", {}, words.whyCount(span.count)));
  return element("div", { class: "span" }, title, ...span.matches.map((match) => sourceView(span, match)));
}

function sourceView(span, match) {
  const words = WORDS[language];
  const place = [match.document, words.whyLine(match.line)];
  if (match.step !== null) place.push(words.whyStep(match.step));
  const quote = element("blockquote", {}, match.before, element("mark", {}, span.text), match.after);
  const hasQuote = match.before || match.after;
  const passed = (match.filters ?? []).filter((row) => row.filters.length).map((row) => `${row.step}: ${row.filters.join("; ")}`);
  const filters = passed.length ? element("details", {}, element("summary", {}, words.whyPassed), passed.join(" → ")) : null;
  return element("div", { class: "source" }, element("span", { class: "place" }, place.join(" · ")), hasQuote ? quote : null, filters);
}

// ---- language, settings, keyboard

function showLanguage() {
  const words = WORDS[language];
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = words[node.dataset.text];
  for (const node of document.querySelectorAll("[data-hint]")) node.placeholder = words[node.dataset.hint];
  for (const node of document.querySelectorAll("[data-aria]")) node.setAttribute("aria-label", words[node.dataset.aria]);
  for (const node of document.querySelectorAll("[data-label]")) {
    node.title = words[node.dataset.label];
    if (!node.querySelector("span")) node.setAttribute("aria-label", words[node.dataset.label]);
  }
  byId("language").textContent = words.otherLanguage;
  byId("model").removeAttribute("aria-label");
  byId("examples").replaceChildren(...words.examples.map(([kind, question]) =>
    element("button", { type: "button", class: "example", onclick: () => ask(question) }, element("small", {}, kind), question)));
  showRunning();
}

function showRunning() {
  const label = running ? "stop" : "send";
  sendButton.querySelector("use").setAttribute("href", `#icon-${label}`);
  sendButton.title = WORDS[language][label];
  sendButton.setAttribute("aria-label", WORDS[language][label]);
  sendButton.disabled = !running && !prompt.value.trim();
}

function openSettings() {
  for (const [name, value] of Object.entries(settings)) form.elements[name].value = value;
  form.elements.key.value = readKey();
  byId("key-field").hidden = !server.key_required;
  showNumbers();
  drawer.showModal();
}

function showNumbers() {
  for (const name of ["temperature", "top_p"]) byId(`${name}-shown`).textContent = Number(form.elements[name].value).toFixed(2);
}

function keepSettings(event) {
  for (const name of Object.keys(DEFAULTS)) {
    if (form.elements[name].validity.valid) settings[name] = form.elements[name].value;
  }
  store("settings", settings);
  showNumbers();
  if (event.target.name === "key") {
    try {
      sessionStorage.setItem("athanor.key", event.target.value);
    } catch (problem) {
      console.warn("the browser keeps no key:", problem.name);
    }
  }
}

function fitPrompt() {
  if (!CSS.supports("field-sizing", "content")) {
    prompt.style.height = "auto";
    prompt.style.height = `${prompt.scrollHeight}px`;
  }
  showRunning();
}

function onPromptKey(event) {
  const composing = event.isComposing || event.keyCode === 229; // an input method is still choosing characters
  if (event.key !== "Enter" || event.shiftKey || composing) return;
  event.preventDefault();
  if (!running) ask(prompt.value);
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) stop();
  else ask(prompt.value);
});
prompt.addEventListener("keydown", onPromptKey);
prompt.addEventListener("input", fitPrompt);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !drawer.open && !event.isComposing) stop();
});
scroller.addEventListener("scroll", () => { toEnd.hidden = nearEnd() || messages.length === 0; });
toEnd.addEventListener("click", scrollToEnd);
byId("new").addEventListener("click", newChat);
byId("open-settings").addEventListener("click", openSettings);
form.addEventListener("input", keepSettings);
drawer.addEventListener("click", (event) => { if (event.target === drawer) drawer.close(); });
byId("reset").addEventListener("click", () => {
  settings = { ...DEFAULTS };
  store("settings", settings);
  openSettingsAgain();
});
byId("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  store("language", language);
  showLanguage();
  if (!running) show();
});

function openSettingsAgain() {
  drawer.close();
  openSettings();
}

async function start() {
  showLanguage();
  show();
  scrollToEnd();
  try {
    server = await (await fetch("/page.json")).json();
    byId("model").textContent = server.model;
    show();
    scrollToEnd();
  } catch {
    list.append(problemView("network", ""));
  }
  if (matchMedia("(pointer: fine)").matches) prompt.focus();
}

start();
