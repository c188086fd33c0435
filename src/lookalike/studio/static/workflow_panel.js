"use strict";
// The panel of one node: its name, inputs, settings, results and log.
class WorkflowPanel {
  // `on` has changed(text), say(text), run(options), remove(name), leave(name), file.
  constructor(box, graph, on) {
    Object.assign(this, { box, graph, on, name: "", templates: {}, state: {}, faults: [] });
    box.addEventListener("change", (event) => this.changed(event.target));
    box.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.name) return;
      document.activeElement.blur();  // a text that was typed counts
      this.on.leave(this.name);
    });
  }

  async show(name, port = "", hasFocus = true) {
    const node = this.graph.node(name);
    if (!node) return this.clear();
    const fields = await this.fields(node.uses);
    if (!this.graph.node(name)) return;
    this.name = name;
    const kind = this.graph.kinds[node.uses];
    const settings = element("div", { className: "settings" });
    settings.innerHTML = fields;  // from this server, with its values escaped
    const parts = [
      element("h2", { textContent: name }), element("p", { className: "soft", textContent: `${node.uses}: ${kind.text}` }),
      element("p", { className: "wrong", id: "node-faults" }),
      this.nameField(name), this.inputs(node, kind), settings, this.others(node), this.results(), this.actions(name)];
    this.box.replaceChildren(...parts.filter(Boolean));
    this.fill(node, kind);
    htmx.process(settings);
    this.paint(this.state, this.faults);
    this.readLog();
    if (hasFocus) (port ? document.getElementById(`input-${port}`) : document.getElementById("node-name")).focus();
  }

  clear() {
    this.name = "";
    this.box.replaceChildren(element("p", { className: "soft", textContent: "Choose a node to set it." }));
  }

  async fields(uses) {
    if (!this.templates[uses]) {
      const query = new URLSearchParams({ file: this.on.file, uses });
      const answer = await fetch(`/workflow/fields?${query}`);
      if (!answer.ok) { this.on.say("The studio could not answer."); return ""; }
      this.templates[uses] = await answer.text();
    }
    return this.templates[uses];
  }

  nameField(name) {
    return element("div", { className: "field" }, element("label", { htmlFor: "node-name", textContent: "Name" }),
      element("div", { className: "entry" }, element("input", { id: "node-name", value: name, spellcheck: false, autocomplete: "off" })));
  }

  inputs(node, kind) {
    const ports = Object.entries(kind.inputs).map(([port, { types, required }]) => {
      const chosen = node.inputs[port] ?? "", choices = this.graph.sources(node.name, port);
      if (chosen && !choices.includes(chosen)) choices.push(chosen);
      const select = element("select", { id: `input-${port}`, data: { input: port } },
        element("option", { value: "", textContent: choices.length ? "not connected" : `no ${types.join(" or ")} to connect` }),
        ...choices.map((source) => element("option", { value: source, textContent: source, selected: source === chosen })));
      return element("div", { className: "field" },
        element("div", { className: "head" }, element("label", { htmlFor: select.id, textContent: `Input ${port}` }), required ? element("span", { className: "soft", textContent: "required" }) : null),
        element("div", { className: "entry" }, select));
    });
    return element("div", { className: "fields inputs" }, ...ports);
  }

  // Values of the fields, and what a connection does to them.
  fill(node, kind) {
    for (const field of this.box.querySelectorAll(".settings [name]")) {
      const text = this.graph.value(node.name, field.name);
      if (field.tagName === "SELECT" && text && ![...field.options].some((option) => option.value === text)) {
        field.append(element("option", { value: text, textContent: text }));
      }
      field.value = text;
      if (text) { const more = field.closest("details.more"); if (more) more.open = true; }
    }
    for (const [port, { key }] of Object.entries(kind.inputs)) this.tellWinner(node, port, key);
  }

  // A connected input beats the setting; the field says so.
  tellWinner(node, port, key) {
    const field = this.box.querySelector(`.settings [name="${key}"]`), source = node.inputs[port];
    if (!field) return;
    const id = `winner-${port}`;
    document.getElementById(id)?.remove();
    const label = field.closest(".field").querySelector("label");
    if (!source) return;
    const text = field.value ? `${source} is connected, and wins over this value.` : `Taken from ${source}, which is connected.`;
    label.after(element("span", { id, className: "winner", textContent: text }));
  }

  // Settings without a field: they have a fault, or are there twice.
  others(node) {
    const known = new Set([...(new DOMParser().parseFromString(this.templates[node.uses] ?? "", "text/html")).querySelectorAll("[name]")].map((field) => field.name));
    const rows = node.settings.filter((setting, at) => !known.has(setting.key) || node.settings.findIndex((each) => each.key === setting.key) !== at);
    if (!rows.length) return null;
    return element("div", {}, element("h3", { textContent: "Other settings" }), ...rows.map((setting) => {
      const name = setting.path.join(".");
      const remove = element("button", { type: "button", textContent: "Remove", "aria-label": `Remove ${name}` });
      remove.addEventListener("click", () => {
        this.graph.change(() => { const all = this.graph.node(node.name).settings; all.splice(all.findIndex((each) => each.path.join(".") === name), 1); });
        this.on.changed(`${name} is removed.`);
        this.show(this.name);
      });
      return element("p", { className: "row" }, element("code", { textContent: `${name}: ${setting.text}` }), remove);
    }));
  }

  results() {
    return element("section", { "aria-label": "Results" }, element("h3", { textContent: "Results" }),
      element("ul", { id: "node-results" }), element("details", { id: "node-log-box", hidden: true }, element("summary", { textContent: "Log" }),
        element("pre", { id: "node-log", className: "log", tabIndex: 0, "aria-label": "End of the log" })));
  }

  actions(name) {
    const button = (text, act, title = "") => {
      const made = element("button", { type: "button", textContent: text, title });
      made.addEventListener("click", act);
      return made;
    };
    return element("div", { className: "row actions" },
      button("Run this node alone", () => this.on.run({ only: name }), "lookalike run --only"),
      button("Run it again", () => this.on.run({ again: name }), "lookalike run --again: even if nothing changed"),
      button("Remove the node", () => this.on.remove(name)));
  }

  changed(field) {
    const { name } = this;
    if (field.id === "node-name") {
      const refusal = this.graph.rename(name, field.value.trim());
      if (refusal) { field.value = name; return this.on.say(refusal); }
      this.name = field.value.trim();
      this.box.querySelector("h2").textContent = this.name;
      this.box.querySelector(".actions").replaceWith(this.actions(this.name));
      return this.on.changed(`${name} is now ${this.name}.`);
    }
    const port = field.dataset.input;
    if (port) {
      if (field.value) this.graph.connect(field.value, name, port);
      else this.graph.disconnect(name, port);
      this.on.changed(field.value ? `${field.value} is connected to ${port} of ${name}.` : `${port} of ${name} is not connected.`);
    } else if (field.name && field.closest(".settings")) {
      if (this.graph.set(name, field.name, field.value)) this.on.changed(`${field.name} of ${name} is ${field.value || "the default"}.`);
    }
  }

  // Inputs after a connection was made or undone. What has not changed stays, and with it the focus.
  refresh() {
    if (!this.name) return;
    const node = this.graph.node(this.name);
    if (!node) return this.clear();
    const kind = this.graph.kinds[node.uses], old = this.box.querySelector(".inputs"), now = this.inputs(node, kind);
    if (old.textContent !== now.textContent) {
      const focus = old.contains(document.activeElement) ? document.activeElement.id : "";
      old.replaceWith(now);
      if (focus) document.getElementById(focus)?.focus();
    } else for (const select of old.querySelectorAll("select")) select.value = node.inputs[select.dataset.input] ?? "";
    for (const [port, { key }] of Object.entries(kind.inputs)) this.tellWinner(node, port, key);
  }

  // State and faults of the node.
  paint(state, faults) {
    Object.assign(this, { state, faults });
    if (!this.name) return;
    const own = faults.filter((fault) => fault.node === this.name), mine = state.nodes?.[this.name] ?? { results: [] };
    const node = this.graph.node(this.name);
    const field = (key) => node?.settings.find((setting) => setting.path.join(".") === key)?.key ?? key;
    for (const place of this.box.querySelectorAll("[id^='error-']")) {
      setText(place, own.filter((fault) => field(fault.key) === place.id.slice(6)).map((fault) => fault.text).join("\n"));
    }
    markWrong();
    const rest = own.filter((fault) => !document.getElementById(`error-${field(fault.key)}`)).map((fault) => fault.text);
    setText(document.getElementById("node-faults"), [...rest, ...(mine.error ? [mine.error] : [])].join("\n"));
    const list = document.getElementById("node-results"), shown = JSON.stringify([mine.state, mine.results]);
    if (list.dataset.shown !== shown) {
      list.dataset.shown = shown;
      list.replaceChildren(...mine.results.map((each) => element("li", {}, each.address ? element("a", { href: each.address, textContent: each.text }) : each.text)),
        ...(mine.results.length ? [] : [element("li", { className: "soft", textContent: mine.state && mine.state !== "new" ? mine.state : "not run yet" })]));
    }
    if (mine.state === "running") this.readLog();
  }

  async readLog() {
    const { name } = this;
    const answer = await fetch(`/workflow/log?${new URLSearchParams({ file: this.on.file, node: name })}`);
    if (!answer.ok || name !== this.name) return;
    const { log } = await answer.json();
    const place = document.getElementById("node-log"), box = document.getElementById("node-log-box");
    box.hidden = !log;
    if (place.textContent === log) return;
    const atEnd = place.scrollTop + place.clientHeight >= place.scrollHeight - 4;
    place.textContent = log;
    if (atEnd) place.scrollTop = place.scrollHeight;
  }
}
