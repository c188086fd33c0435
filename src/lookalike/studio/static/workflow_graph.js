"use strict";
// A workflow that is edited: nodes, connections, cells of the canvas, undo.
class WorkflowGraph {
  constructor(kinds, graph) {
    this.kinds = kinds;
    this.nodes = graph.nodes;
    this.head = graph.head;
    this.past = [];
    this.future = [];
  }

  node(name) { return this.nodes.find((node) => node.name === name); }
  kind(name) { return this.kinds[this.node(name).uses]; }
  toJSON() { return { nodes: this.nodes, head: this.head }; }

  // Does something that can be undone; false if nothing changed.
  change(act) {
    const before = JSON.stringify(this.nodes);
    act();
    if (JSON.stringify(this.nodes) === before) return false;
    this.past.push(before);
    this.future = [];
    return true;
  }

  undo() { return this.swap(this.past, this.future); }
  redo() { return this.swap(this.future, this.past); }
  swap(from, to) {
    if (!from.length) return false;
    to.push(JSON.stringify(this.nodes));
    this.nodes = JSON.parse(from.pop());
    return true;
  }

  add(uses) {
    let name = uses, number = 2;
    while (this.node(name)) name = `${uses}_${number++}`;
    this.change(() => {
      const taken = new Set([...this.cells().values()].map(String));
      const at = this.nodes.some((node) => node.at) ? freeCell(taken, 0) : null;
      this.nodes.push({ name, uses, inputs: {}, settings: [], at });
    });
    return name;
  }

  remove(name) {
    return this.change(() => {
      this.nodes = this.nodes.filter((node) => node.name !== name);
      for (const node of this.nodes) {
        for (const [port, source] of Object.entries(node.inputs)) {
          if (source.split(".")[0] === name) delete node.inputs[port];
        }
      }
    });
  }

  // The reason why a node cannot have a name; "" once it has it.
  rename(name, to) {
    if (!/^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$/.test(to)) return `'${to}' is no name of a node: use letters, digits, _ and -`;
    if (to !== name && this.node(to)) return `${to}: another node has this name`;
    this.change(() => {
      this.node(name).name = to;
      for (const node of this.nodes) {
        for (const [port, source] of Object.entries(node.inputs)) {
          const [giver, output] = source.split(".");
          if (giver === name) node.inputs[port] = `${to}.${output}`;
        }
      }
    });
    return "";
  }

  givers(name) { return Object.values(this.node(name).inputs).map((source) => source.split(".")[0]).filter((giver) => this.node(giver)); }

  // A node and all that it depends on.
  before(name, found = new Set([name])) {
    for (const giver of this.givers(name)) if (!found.has(giver)) this.before(giver, found.add(giver));
    return found;
  }

  // Outputs that an input takes without making a circle.
  sources(name, port) {
    const { types } = this.kind(name).inputs[port];
    return this.nodes.filter((node) => !this.before(node.name).has(name)).flatMap((node) =>
      Object.entries(this.kinds[node.uses].outputs).filter(([, type]) => types.includes(type)).map(([output]) => `${node.name}.${output}`));
  }

  // Inputs that take an output, as [node, port].
  targets(source) {
    const [giver, output] = source.split("."), type = this.kind(giver).outputs[output], before = this.before(giver);
    return this.nodes.filter(({ name }) => !before.has(name)).flatMap(({ name, uses }) =>
      Object.entries(this.kinds[uses].inputs).filter(([, { types }]) => types.includes(type)).map(([port]) => [name, port]));
  }

  connect(source, name, port) { return this.change(() => { this.node(name).inputs[port] = source; }); }
  disconnect(name, port) { return this.change(() => { delete this.node(name).inputs[port]; }); }

  value(name, key) { return this.node(name).settings.find((setting) => setting.key === key)?.text ?? ""; }
  set(name, key, text) {
    return this.change(() => {
      const { settings } = this.node(name);
      const found = settings.findIndex((setting) => setting.key === key);
      if (!text.trim()) { if (found >= 0) settings.splice(found, 1); }
      else if (found >= 0) settings[found].text = text;
      else settings.push({ key, path: [key], text });
    });
  }

  // [column, row] of each node: where it was moved to, else by what it depends on.
  cells() {
    const cells = new Map(), taken = new Set();
    for (const node of this.nodes) if (node.at) cells.set(node.name, freeCell(taken, ...node.at));
    const depths = new Map();
    const depth = (name) => {
      if (!depths.has(name)) {
        depths.set(name, 0);  // for circles
        depths.set(name, Math.max(0, ...this.givers(name).map((giver) => depth(giver) + 1)));
      }
      return depths.get(name);
    };
    const left = this.nodes.filter((node) => !node.at).sort((a, b) => depth(a.name) - depth(b.name));
    for (const { name } of left) {
      const rows = this.givers(name).filter((giver) => cells.has(giver)).map((giver) => cells.get(giver)[1]);
      cells.set(name, freeCell(taken, depth(name), rows.length ? Math.min(...rows) : 0));
    }
    return cells;
  }

  // Put a node into a cell; the one that is there goes to the cell that becomes free.
  place(name, column, row) {
    return this.change(() => {
      const cells = this.cells(), to = [Math.min(999, Math.max(0, column)), Math.min(999, Math.max(0, row))];
      for (const [other, cell] of cells) {
        if (other !== name && cell.join() === to.join()) cells.set(other, cells.get(name));
      }
      if (cells.get(name).join() === to.join()) return;
      cells.set(name, to);
      for (const node of this.nodes) node.at = cells.get(node.name);
    });
  }

  arrange() { return this.change(() => { for (const node of this.nodes) node.at = null; }); }
}

// The first free cell of a column from a row on, which is taken then.
function freeCell(taken, column, row = 0) {
  while (taken.has(`${column},${row}`)) row += 1;
  taken.add(`${column},${row}`);
  return [column, row];
}

// An element with properties, attributes (with a dash, or role) and children.
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "data") Object.assign(made.dataset, value);
    else if (name in made && !name.includes("-")) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
