"use strict";
// The canvas: nodes as elements in cells, connections as curves below them; mouse and keys.
class WorkflowCanvas {
  // `on` has open(name, port), changed(text), say(text).
  constructor(box, graph, on) {
    Object.assign(this, { box, graph, on, current: "", source: "", states: {}, faults: [], drawn: new Map(), parts: new Map() });
    this.lines = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.lines.setAttribute("aria-hidden", "true");
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("click", (event) => this.click(event));
    box.addEventListener("pointerdown", (event) => this.press(event));
    box.addEventListener("focusin", (event) => {
      const name = event.target.closest("[data-node]")?.dataset.node;
      if (name && name !== this.current) { this.current = name; this.setTabs(); }
    });
    let width = 0;
    new ResizeObserver(() => {
      if (box.clientWidth === width) return;
      width = box.clientWidth;
      requestAnimationFrame(() => this.place());
    }).observe(box);
  }

  // Draws anew what has changed; the focus stays on what it was on.
  draw() {
    const kept = this.box.contains(document.activeElement) ? document.activeElement.dataset.focus : "";
    if (!this.graph.node(this.current)) this.current = this.graph.nodes[0]?.name ?? "";
    const drawn = this.graph.nodes.map((node) => {
      const facts = JSON.stringify([node.name, node.uses, node.inputs]), old = this.drawn.get(node.name);
      return [node.name, old?.facts === facts ? old : { facts, box: this.nodeElement(node) }];
    });
    this.drawn = new Map(drawn);
    let last = this.lines;
    this.box.prepend(last);
    for (const [, { box }] of drawn) {
      if (last.nextSibling !== box) last.after(box);
      last = box;
    }
    while (last.nextSibling) last.nextSibling.remove();
    this.parts = new Map([...this.box.querySelectorAll("[data-focus]")].map((each) => [each.dataset.focus, each]));
    this.paint();
    this.setTabs();
    if (kept) this.focus(kept);
  }

  nodeElement({ name, uses, inputs }) {
    const kind = this.graph.kinds[uses];
    const port = (side, each) => {
      const source = inputs[each];
      const state = side === "out" ? "" : source ? `, connected to ${source}` : ", not connected";
      return element("button", {
        type: "button", className: `port ${side}${source ? " connected" : ""}`, textContent: each,
        "aria-label": `${each}, ${side === "in" ? "input" : "output"} of ${name}${state}`,
        data: { port: each, side, focus: `${side}:${name}:${each}` },
      });
    };
    return element("div", { className: "node", role: "group", "aria-label": name, data: { node: name } },
      element("div", { className: "ports ins" }, ...Object.keys(kind.inputs).map((each) => port("in", each))),
      element("button", { type: "button", className: "title", "aria-describedby": "keys", data: { focus: `node:${name}` } },
        element("strong", { textContent: name }),
        element("span", { className: "soft", textContent: uses === name ? "" : uses }),
        element("span", { className: "state" })),
      element("progress", { max: 1, hidden: true, "aria-label": `Progress of ${name}` }),
      element("p", { className: "note soft" }),
      element("p", { className: "wrong" }),
      element("div", { className: "ports outs" }, ...Object.keys(kind.outputs).map((each) => port("out", each))));
  }

  // States and faults of the nodes that are drawn.
  paint() {
    for (const box of this.box.querySelectorAll("[data-node]")) {
      const name = box.dataset.node, state = this.states[name] ?? { state: "new" };
      const wrong = this.faults.filter((fault) => fault.node === name).map((fault) => fault.text);
      if (!wrong.length && state.error) wrong.push(state.error);
      const shown = state.state === "new" ? "" : state.state === "done" ? `done in ${seconds(state.seconds)}` : state.state;
      setText(box.querySelector(".state"), shown);
      box.querySelector(".state").className = `state ${state.state}`;
      setText(box.querySelector(".note"), state.note ?? "");
      const progress = box.querySelector("progress");
      progress.hidden = typeof state.part !== "number";
      progress.value = state.part ?? 0;
      setText(box.querySelector(".wrong"), wrong.join("\n"));
      box.classList.toggle("faulty", wrong.length > 0);
      box.classList.toggle("running", state.state === "running");
    }
    this.place();
  }

  place() {
    const tall = this.box.clientWidth < 560;
    this.box.classList.toggle("tall", tall);
    const cells = this.graph.cells(), boxes = [...this.box.querySelectorAll("[data-node]")];
    const width = tall ? 156 : 216, gapX = tall ? 14 : 72, gapY = tall ? 44 : 30;
    const heights = [];
    this.grid = { tall, width, gapX, gapY, cells, tops: [] };
    for (const box of boxes) {
      const [column, row] = cells.get(box.dataset.node), line = tall ? column : row;
      heights[line] = Math.max(heights[line] ?? 60, box.offsetHeight);
    }
    let top = 6;
    for (let line = 0; line < heights.length; line += 1) {
      this.grid.tops[line] = top;
      top += (heights[line] ?? 60) + gapY;
    }
    this.grid.bottom = top;
    let right = 0;
    for (const box of boxes) {
      const [column, row] = cells.get(box.dataset.node);
      const left = 6 + (tall ? row : column) * (width + gapX);
      if (!box.classList.contains("dragged")) {
        box.style.left = `${left}px`;
        box.style.top = `${this.grid.tops[tall ? column : row]}px`;
      }
      right = Math.max(right, left + width + 6);
    }
    this.lines.setAttribute("width", right);
    this.lines.setAttribute("height", top);
    this.box.style.height = boxes.length ? `${top}px` : "0";
    this.drawLines();
  }

  drawLines() {
    const curves = [], isMoving = this.box.querySelector(".dragged") !== null;
    const numbers = new Map(this.graph.nodes.map((node, at) => [node.name, at]));
    for (const node of this.graph.nodes) {
      for (const [port, source] of Object.entries(node.inputs)) {
        const from = this.find(`out:${source.replace(".", ":")}`), to = this.find(`in:${node.name}:${port}`), giver = source.split(".")[0];
        if (from && to) curves.push(this.curve(this.end(from, true), this.end(to, false), this.states[giver]?.state, isMoving ? null : this.lane(giver, node.name, numbers.get(giver))));
      }
    }
    this.lines.replaceChildren(...curves);
  }

  // Where a connection passes between the rows, and not behind the nodes of other columns; null for neighbours.
  lane(giver, name, number) {
    const { tall, width, gapX, gapY, cells, tops, bottom } = this.grid, [column, row] = cells.get(giver), [toColumn, toRow] = cells.get(name);
    if (toColumn === column + 1) return null;
    const before = toRow < row ? row - 1 : row, aside = ((number % 5) - 2) * (tall ? 2 : 4);
    return (tall ? 6 + (before + 1) * (width + gapX) - gapX / 2 : (tops[before + 1] ?? bottom) - gapY / 2) + aside;
  }

  // Where a connection ends at a port.
  end(port, isOutput) {
    const box = port.closest("[data-node]");
    const left = box.offsetLeft + port.offsetLeft, top = box.offsetTop + port.offsetTop;
    if (this.grid.tall) return [left + port.offsetWidth / 2, isOutput ? box.offsetTop + box.offsetHeight : box.offsetTop];
    return [isOutput ? box.offsetLeft + box.offsetWidth : box.offsetLeft, top + port.offsetHeight / 2];
  }

  // From an output to an input; along and across are the directions of columns and rows.
  curve(from, to, state = "", lane = null) {
    const { tall } = this.grid, point = (along, across) => (tall ? `${across} ${along}` : `${along} ${across}`);
    const [along, across] = tall ? [from[1], from[0]] : from, [toAlong, toAcross] = tall ? [to[1], to[0]] : to;
    const bend = (a, b, toA, toB, reach) => `C${point(a + reach, b)} ${point(toA - reach, toB)} ${point(toA, toB)}`;
    const made = document.createElementNS("http://www.w3.org/2000/svg", "path"), turn = tall ? 40 : 64;
    const path = lane === null
      ? bend(along, across, toAlong, toAcross, Math.max(28, Math.abs(toAlong - along) / 2))
      : `${bend(along, across, along + turn, lane, turn / 2)}L${point(toAlong - turn, lane)}${bend(toAlong - turn, lane, toAlong, toAcross, turn / 2)}`;
    made.setAttribute("d", `M${point(along, across)}${path}`);
    made.setAttribute("class", state);
    return made;
  }

  find(focus) { return this.parts.get(focus); }
  focus(focus) { this.find(focus)?.focus(); }

  // Tab goes to the current node and its ports; while connecting to the inputs that can be chosen.
  setTabs() {
    const open = new Set(this.source ? this.graph.targets(this.source).map(([name, port]) => `in:${name}:${port}`) : []);
    for (const each of this.parts.values()) {
      const own = each.closest("[data-node]").dataset.node === this.current;
      each.tabIndex = (this.source ? open.has(each.dataset.focus) : own) ? 0 : -1;
      if (this.source && each.dataset.side === "in" && !open.has(each.dataset.focus)) each.setAttribute("aria-disabled", "true");
      else each.removeAttribute("aria-disabled");
      each.classList.toggle("open", open.has(each.dataset.focus));
      each.classList.toggle("chosen", each.dataset.focus === `out:${this.source.replace(".", ":")}`);
    }
    this.box.classList.toggle("connecting", this.source !== "");
  }

  // Inputs that take an output, the nearest ahead first.
  targets(source) {
    const cells = this.graph.cells(), [column, row] = cells.get(source.split(".")[0]);
    const far = ([name]) => { const [x, y] = cells.get(name); return Math.abs(x - column) + 2 * Math.abs(y - row) + (x < column ? 2000 : 0); };
    return this.graph.targets(source).sort((one, two) => far(one) - far(two));
  }

  begin(source) {
    const targets = this.targets(source);
    if (!targets.length) return this.on.say(`No input takes ${source}.`);
    this.source = source;
    this.setTabs();
    this.on.say(`Connecting ${source}: choose one of ${targets.length} input${targets.length > 1 ? "s" : ""}, or Escape.`);
    return targets;
  }

  leave() {
    const source = this.source;
    this.source = "";
    this.setTabs();
    return source;
  }

  finish(name, port) {
    const source = this.leave();
    if (!this.graph.sources(name, port).includes(source)) {
      const { types } = this.graph.kind(name).inputs[port];
      return this.on.say(`${name}: ${port} takes ${types.join(" or ")}, and not ${source}.`);
    }
    this.graph.connect(source, name, port);
    this.on.changed(`${source} is connected to ${port} of ${name}.`);
    this.focus(`in:${name}:${port}`);
  }

  click(event) {
    const button = event.target.closest("[data-focus]");
    if (this.dragged || !button) return;
    const { node } = button.closest("[data-node]").dataset, { port, side } = button.dataset;
    if (side === "in" && this.source) return this.finish(node, port);
    if (side === "out") {
      const targets = this.begin(`${node}.${port}`);
      if (targets && event.detail === 0) this.focus(`in:${targets[0].join(":")}`);  // by a key
      return;
    }
    this.leave();
    this.on.open(node, port);
  }

  key(event) {
    const button = event.target.closest("[data-focus]");
    if (!button || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const { node } = button.closest("[data-node]").dataset, { port, side } = button.dataset;
    if (event.key === "Escape" && this.source) {
      const source = this.leave();
      this.focus(`out:${source.replace(".", ":")}`);
      this.on.say("Not connected.");
    } else if (event.key === "Delete" || event.key === "Backspace") {
      if (side === "in") {
        if (this.graph.disconnect(node, port)) this.on.changed(`${port} of ${node} is not connected any more.`);
      } else if (!side) this.remove(node);
    } else if (!step) return;
    else if (this.source) this.nextTarget(button.dataset.focus, step[0] + step[1]);
    else if (event.shiftKey) this.move(node, this.grid.tall ? [step[1], step[0]] : step);
    else if (side) this.nextPort(button, step[0] + step[1]);
    else this.nextNode(node, this.grid.tall ? [step[1], step[0]] : step);
    event.preventDefault();
  }

  remove(name) {
    const at = this.graph.nodes.findIndex((node) => node.name === name);
    this.graph.remove(name);
    const next = this.graph.nodes[Math.min(at, this.graph.nodes.length - 1)]?.name;
    this.current = next ?? "";
    this.on.changed(`${name} is removed; Undo brings it back.`);
    if (next) this.focus(`node:${next}`);
    else document.querySelector("[data-add]").focus();
  }

  move(name, [columns, rows]) {
    const [column, row] = this.graph.cells().get(name);
    if (!this.graph.place(name, column + columns, row + rows)) return this.on.say("This is the edge.");
    const [nowColumn, nowRow] = this.graph.cells().get(name);
    this.on.changed(`${name} is in column ${nowColumn + 1}, row ${nowRow + 1}.`);
    this.find(`node:${name}`).scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  nextTarget(focus, step) {
    const targets = this.targets(this.source).map((target) => `in:${target.join(":")}`);
    this.focus(targets[(targets.indexOf(focus) + step + targets.length) % targets.length]);
  }

  nextPort(button, step) {
    const all = [...button.closest("[data-node]").querySelectorAll("[data-focus]")];
    all[(all.indexOf(button) + step + all.length) % all.length].focus();
  }

  // The nearest node in a direction; those straight ahead first.
  nextNode(name, [columns, rows]) {
    const cells = this.graph.cells(), [column, row] = cells.get(name);
    let best = "", least = Infinity;
    for (const [other, [x, y]] of cells) {
      const ahead = (x - column) * columns + (y - row) * rows, aside = Math.abs((x - column) * rows) + Math.abs((y - row) * columns);
      if (ahead > 0 && ahead + 2 * aside < least) { least = ahead + 2 * aside; best = other; }
    }
    if (best) this.focus(`node:${best}`);
  }

  // Dragging a node to another cell, or an output to an input, by mouse or pen.
  press(event) {
    const button = event.target.closest("[data-focus]");
    this.dragged = false;
    if (!button || event.button !== 0 || event.pointerType === "touch" || button.dataset.side === "in") return;
    const box = button.closest("[data-node]"), { node } = box.dataset, isPort = button.dataset.side === "out";
    const begin = [event.clientX, event.clientY], left = box.offsetLeft, top = box.offsetTop;
    const local = (move) => { const { x, y } = this.box.getBoundingClientRect(); return [move.clientX - x + this.box.scrollLeft, move.clientY - y]; };
    const moved = (move) => {
      const [x, y] = [move.clientX - begin[0], move.clientY - begin[1]];
      if (!this.dragged && Math.hypot(x, y) < 5) return;
      if (!this.dragged && isPort && !this.begin(`${node}.${button.dataset.port}`)) return end();
      this.dragged = true;
      if (!isPort) {
        box.classList.add("dragged");
        box.style.left = `${left + x}px`;
        box.style.top = `${top + y}px`;
      }
      this.drawLines();
      if (isPort) this.lines.append(this.curve(this.end(button, true), local(move)));
    };
    const end = () => {
      document.removeEventListener("pointermove", moved);
      document.removeEventListener("pointerup", up);
    };
    const up = (move) => {
      end();
      if (!this.dragged) return;
      setTimeout(() => { this.dragged = false; });  // after the click of this press
      const [x, y] = [box.offsetLeft, box.offsetTop];
      box.classList.remove("dragged");
      if (isPort) {
        const target = document.elementFromPoint(move.clientX, move.clientY)?.closest(".port.in");
        if (target) this.finish(target.closest("[data-node]").dataset.node, target.dataset.port);
        else { this.leave(); this.on.say("Not connected."); }
        this.drawLines();
        return;
      }
      const { tall, width, gapX, tops } = this.grid;
      const across = Math.max(0, Math.round((x - 6) / (width + gapX)));
      let down = 0;
      while (down + 1 < tops.length && y > (tops[down] + tops[down + 1]) / 2) down += 1;
      if (down === tops.length - 1 && y > tops[down] + 70) down += 1;
      if (this.graph.place(node, tall ? down : across, tall ? across : down)) this.on.changed(`${node} is moved.`);
      else this.place();
      this.focus(`node:${node}`);
    };
    document.addEventListener("pointermove", moved);
    document.addEventListener("pointerup", up);
  }
}

function seconds(value) {
  if (value < 60) return `${Math.round(value)} s`;
  return value < 3600 ? `${Math.floor(value / 60)} min ${Math.round(value % 60)} s` : `${(value / 3600).toFixed(1)} h`;
}

// Sets a text unless it is there: a screen reader would read it again.
function setText(place, text) {
  if (place.textContent !== text) place.textContent = text;
}
