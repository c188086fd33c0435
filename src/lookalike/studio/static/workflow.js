"use strict";
// The page of one workflow: checks while it is edited, saves, runs, shows what runs.
(async () => {
  const page = document.getElementById("workflow");
  if (!page) return;
  const { file } = page.dataset, button = (id) => document.getElementById(id);
  const said = document.getElementById("said");
  let version = "", saved = "", faults = [], state = { nodes: {}, running: false }, checking = 0, timer = 0, planned = {};

  // Empties the line first, so that the same text is announced again.
  function say(text) {
    said.textContent = "";
    requestAnimationFrame(() => { said.textContent = text; });
  }

  async function ask(path, body) {
    let answer;
    try {
      answer = await fetch(path, body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ file, ...body }) });
    } catch {
      throw new Error("The studio does not answer; runs go on.");
    }
    if (answer.ok) return answer.json();
    if (answer.status === 401) throw new Error("The session has ended: log in in another tab, then go on here.");
    let detail = "The studio could not answer.";
    try { ({ detail } = await answer.json()); } catch { /* not of our program */ }
    throw new Error(detail);
  }

  // Does something, and says why it could not be done.
  const attempt = (act) => async (...given) => {
    try { return await act(...given); } catch (error) { say(error.message); }
  };

  let opened;
  try { opened = await ask(`/workflow/graph?${new URLSearchParams({ file })}`); } catch (error) { return say(error.message); }
  const graph = new WorkflowGraph(opened.kinds, opened.graph);
  version = opened.version;
  saved = JSON.stringify(graph);
  const canvas = new WorkflowCanvas(document.getElementById("canvas"), graph, { open: (name, port) => panel.show(name, port), changed, say });
  const panel = new WorkflowPanel(document.getElementById("node"), graph, { file, changed, say, run: attempt(run), remove: (name) => canvas.remove(name), leave: (name) => canvas.focus(`node:${name}`) });

  const isSaved = () => JSON.stringify(graph) === saved;

  function paint(isDrawn = true) {
    const states = Object.fromEntries(Object.entries(state.nodes).map(([name, node]) => [name, planned[name] ? { ...node, note: planned[name] } : node]));
    Object.assign(canvas, { states, faults });
    if (isDrawn) canvas.paint(); else canvas.draw();
    panel.paint(state, faults);
    if (!state.can_stop && document.activeElement === button("stop")) button("run").focus();
    button("stop").hidden = !state.can_stop;
    const goesOn = !state.running && Object.values(state.nodes).some((node) => ["stopped", "interrupted"].includes(node.state));
    setText(button("run"), goesOn ? "Go on" : "Run");
    button("run").setAttribute("aria-disabled", String(state.running));
    button("undo").setAttribute("aria-disabled", String(!graph.past.length));  // and not without focus
    button("redo").setAttribute("aria-disabled", String(!graph.future.length));
    setText(button("saved"), isSaved() ? "" : "not saved");
    document.getElementById("empty").hidden = graph.nodes.length > 0;
    const list = document.getElementById("faults");
    document.getElementById("faults-panel").hidden = !faults.length;
    list.replaceChildren(...faults.map((fault) => {
      const open = element("button", { type: "button", className: "link", textContent: fault.message });
      open.addEventListener("click", () => panel.show(fault.node));
      return element("li", {}, open);
    }));
  }

  function changed(text) {
    planned = {};
    if (text) say(text);
    panel.refresh();
    paint(false);
    clearTimeout(timer);
    timer = setTimeout(attempt(check), 300);
  }

  async function check() {
    const number = ++checking;
    const found = await ask("/workflow/check", { graph });
    if (number === checking) take(found);
  }

  function take(found) {
    const before = faults.length;
    faults = found.faults;
    setText(document.getElementById("text"), found.text);
    paint();
    if (faults.length > before) say(`${faults.length} fault${faults.length > 1 ? "s" : ""}: ${faults[0].text}`);
  }

  async function save() {
    clearTimeout(timer);
    const sent = JSON.stringify(graph);
    const found = await ask("/workflow/save", { version, graph });
    version = found.version;
    saved = sent;
    document.getElementById("comments")?.remove();
    take(found);
    say(faults.length ? `Saved, with ${faults.length} fault${faults.length > 1 ? "s" : ""}.` : "Saved.");
  }

  async function run(options = {}) {
    if (state.running) return say("It is running.");
    if (!isSaved() || !version) await save();
    if (faults.length) {
      document.getElementById("faults").querySelector("button")?.focus();
      return say(`Not run: ${faults[0].text}`);
    }
    planned = {};
    show(await ask("/workflow/run", options));
    say("The workflow runs.");
    poll();
  }

  async function stop() {
    show(await ask("/workflow/stop", {}));
    say("Stopping; a training saves a checkpoint first.");
  }

  async function plan() {
    if (!isSaved() || !version) await save();
    say("Looking at what changed …");
    const { notes, error } = await ask("/workflow/plan", {});
    planned = notes;
    paint();
    const names = Object.keys(notes).filter((name) => notes[name].startsWith("would run"));
    say(error || (names.length ? `Would run: ${names.join(", ")}.` : "Nothing changed: every node is kept."));
  }

  // Takes a new state, and says what has changed.
  function show(now) {
    const before = state, changes = [];
    state = now;
    for (const [name, node] of Object.entries(now.nodes)) {
      const was = before.nodes[name]?.state;
      if (was && was !== node.state) changes.push(node.error ? `${name} failed: ${node.error}` : node.state === "done" ? `${name} is done in ${seconds(node.seconds)}.` : `${name}: ${node.state}.`);
    }
    if (before.running && !now.running) {
      const failed = Object.values(now.nodes).some((node) => node.state === "failed");
      const ended = Object.values(now.nodes).some((node) => ["stopped", "interrupted"].includes(node.state));
      changes.push(now.error || (failed ? "The run has ended with a failed node." : ended ? "The run is stopped; Go on continues it." : "The run is done."));
    }
    if (changes.length) say(changes.join(" "));
    paint();
  }

  let polling = 0;
  function poll() {
    clearTimeout(polling);
    polling = setTimeout(async () => {
      try { show(await ask(`/workflow/state?${new URLSearchParams({ file })}`)); } catch (error) { say(error.message); }
      poll();
    }, state.running ? 2000 : 5000);
  }

  button("save").addEventListener("click", attempt(save));
  button("run").addEventListener("click", attempt(() => run()));
  button("stop").addEventListener("click", attempt(stop));
  button("plan").addEventListener("click", attempt(plan));
  button("arrange").addEventListener("click", () => changed(graph.arrange() ? "The nodes are arranged." : "They are arranged already."));
  function step(act, text) {
    if (!graph[act]()) return say(`Nothing to ${act}.`);
    const onCanvas = canvas.box.contains(document.activeElement);
    changed(text);
    panel.show(panel.name, "", false);
    if (onCanvas && !canvas.box.contains(document.activeElement)) canvas.focus(`node:${canvas.current}`);
  }
  button("undo").addEventListener("click", () => step("undo", "Undone."));
  button("redo").addEventListener("click", () => step("redo", "Done again."));
  page.addEventListener("click", (event) => {
    const uses = event.target.closest("[data-add]")?.dataset.add;
    if (!uses) return;
    const name = graph.add(uses);
    canvas.current = name;
    changed(`${name} is added.`);
    canvas.focus(`node:${name}`);
  });
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase(), isText = event.target.matches("input, textarea, select");
    if (key === "s") attempt(save)();
    else if (isText) return;
    else if (key === "y" || (key === "z" && event.shiftKey)) button("redo").click();
    else if (key === "z") button("undo").click();
    else return;
    event.preventDefault();
  });
  window.addEventListener("beforeunload", (event) => { if (!isSaved()) event.preventDefault(); });

  paint(false);
  await attempt(async () => { state = await ask(`/workflow/state?${new URLSearchParams({ file })}`); })();
  paint();
  if (graph.nodes.length) await attempt(check)();
  page.dataset.ready = "yes";
  poll();
})();
