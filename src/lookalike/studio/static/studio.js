"use strict";
// Tabs by mouse and arrow keys, files picked while browsing, marks of wrong fields, refusals.
function choose(tab) {
  for (const other of tab.parentElement.querySelectorAll("[role=tab]")) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  tab.focus();
}

function markWrong() {
  const wrongTabs = new Set();
  for (const text of document.querySelectorAll("[id^='error-']")) {
    const field = document.getElementById("f-" + text.id.slice(6));
    if (!field) continue;
    if (text.textContent) {
      field.setAttribute("aria-invalid", "true");
      const more = field.closest("details.more");
      if (more) more.open = true;
      const panel = field.closest("[role=tabpanel]");
      if (panel) wrongTabs.add(panel.id);
    } else field.removeAttribute("aria-invalid");
  }
  for (const tab of document.querySelectorAll("[role=tab]")) {
    tab.classList.toggle("wrong", wrongTabs.has(tab.getAttribute("aria-controls")));
  }
}

document.addEventListener("click", (event) => {
  const tab = event.target.closest("[role=tab]");
  if (tab) return choose(tab);
  const pick = event.target.closest("[data-pick]");
  if (!pick) return;
  const field = document.getElementById("f-" + pick.dataset.field);
  field.value = pick.dataset.pick;
  pick.closest(".browse").remove();
  field.dispatchEvent(new Event("change", { bubbles: true }));
  field.focus();
});

document.addEventListener("keydown", (event) => {
  const tab = event.target.closest("[role=tab]");
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!tab || !step) return;
  const tabs = [...tab.parentElement.querySelectorAll("[role=tab]")];
  choose(tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length]);
});

// The end of a log is shown, unless the reader has scrolled up: then the same place of the next one.
let readAt = null;
function showLog() {
  const log = document.querySelector(".log");
  if (log) log.scrollTop = readAt ?? log.scrollHeight;
}
document.addEventListener("scroll", (event) => {
  const log = event.target;
  if (log.classList?.contains("log")) readAt = log.scrollTop + log.clientHeight < log.scrollHeight - 20 ? log.scrollTop : null;
}, true);
showLog();

// A form that htmx does not send is sent once: its second click would answer in place of the first.
document.addEventListener("submit", (event) => {
  if (event.defaultPrevented || event.target.method !== "post") return;
  if (event.target.dataset.sent) return event.preventDefault();
  event.target.dataset.sent = "yes";
  const button = event.target.querySelector("[data-busy]");
  if (button) button.textContent = button.dataset.busy;
});

window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

document.addEventListener("htmx:afterSettle", markWrong);
for (const swap of ["htmx:afterSwap", "htmx:oobAfterSwap"]) document.addEventListener(swap, showLog);
document.addEventListener("htmx:responseError", (event) => {
  const notice = document.getElementById("notice");
  if (event.detail.xhr.status === 401) {
    const login = Object.assign(document.createElement("a"), { href: "/login", target: "_blank", textContent: "log in in a new tab" });
    return notice.replaceChildren("The session has ended: ", login, ", then go on here.");
  }
  let text = event.detail.xhr.responseText;
  try { text = JSON.parse(text).detail; } catch { text = "The studio could not answer."; }
  notice.textContent = text;
});
document.addEventListener("htmx:sendError", () => {
  document.getElementById("notice").textContent = "The studio does not answer; runs go on.";
});
// What is asked for again and again does not replace a choice, or what is pressed or selected just now.
for (const swap of ["htmx:beforeSwap", "htmx:oobBeforeSwap"]) document.addEventListener(swap, (event) => {
  const { target } = event.detail, selected = getSelection();
  if (!["runs", "live", "logged"].includes(target.id)) return;
  const isInUse = target.querySelector(":active") || (!selected.isCollapsed && target.contains(selected.anchorNode));
  if (isInUse || document.querySelector("#runs :checked, #runs :focus")) event.detail.shouldSwap = false;
});
