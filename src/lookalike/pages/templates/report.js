(() => {
  "use strict";
  // Charts: the values under the pointer.
  for (const svg of document.querySelectorAll("svg[data-points]")) {
    const lines = JSON.parse(svg.dataset.points), names = JSON.parse(svg.dataset.names);
    const box = svg.viewBox.baseVal, holder = svg.parentElement;
    const steps = new Map();
    lines.forEach((line, i) => line.forEach(([x, , step, value]) => {
      if (!steps.has(x)) steps.set(x, { step, values: [] });
      steps.get(x).values.push(`${names[i]} ${value}`);
    }));
    const xs = [...steps.keys()].sort((a, b) => a - b);
    const cross = document.createElementNS(svg.namespaceURI, "line");
    cross.setAttribute("class", "cross");
    cross.setAttribute("y1", 12);
    cross.setAttribute("y2", box.height - 26);
    const tip = document.createElement("div");
    tip.className = "tip";
    svg.addEventListener("pointermove", (event) => {
      const area = svg.getBoundingClientRect(), scale = area.width / box.width;
      const at = (event.clientX - area.left) / scale;
      const x = xs.reduce((best, one) => Math.abs(one - at) < Math.abs(best - at) ? one : best, xs[0]);
      cross.setAttribute("x1", x);
      cross.setAttribute("x2", x);
      svg.append(cross);
      const { step, values } = steps.get(x);
      tip.replaceChildren(`step ${step}`, ...values.flatMap((text) => [document.createElement("br"), text]));
      holder.append(tip);
      const left = x * scale + 12, width = tip.offsetWidth;
      tip.style.left = `${left + width > area.width ? Math.max(0, x * scale - 12 - width) : left}px`;
      tip.style.top = `${svg.previousElementSibling.offsetHeight + 14}px`;
    });
    svg.addEventListener("pointerleave", () => { cross.remove(); tip.remove(); });
  }

  // The map: drag, pinch, zoom, and select a class.
  const map = document.querySelector(".map");
  if (!map) return;
  const view = map.querySelector(".view"), plane = map.querySelector(".plane");
  const selected = map.querySelector(".selected"), fingers = new Map();
  let scale = 1, left = 0, top = 0, moved = 0, spread = 0;
  map.classList.add("live");
  document.querySelectorAll(".scripted").forEach((one) => { one.hidden = false; });
  map.querySelector(".tools").hidden = false;

  function place() {
    const edge = 0.5;  // no more than half of the view may be left empty
    left = Math.min(view.clientWidth * edge, Math.max(view.clientWidth * (1 - edge) - plane.clientWidth * scale, left));
    top = Math.min(view.clientHeight * edge, Math.max(view.clientHeight * (1 - edge) - plane.clientHeight * scale, top));
    if (scale === 1) left = top = 0;
    plane.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    plane.style.setProperty("--s", Math.pow(scale, -0.55).toFixed(4));  // images grow less than the map
    map.classList.toggle("zoomed", scale > 1);
  }

  function zoom(factor, x, y) {
    const next = Math.min(24, Math.max(1, scale * factor));
    const inner = plane.offsetLeft;
    left = x - inner - (x - inner - left) * next / scale;
    top = y - inner - (y - inner - top) * next / scale;
    scale = next;
    place();
  }

  function select(target) {
    const group = target && target.dataset.g;
    const again = target && target.classList.contains("hit") && map.classList.contains("picked");
    plane.querySelectorAll(".hit").forEach((one) => one.classList.remove("hit"));
    const on = group !== undefined && group !== null && !again;
    map.classList.toggle("picked", on);
    selected.hidden = !on;
    if (!on) return;
    const hits = plane.querySelectorAll(`[data-g="${group}"]`);
    hits.forEach((one) => one.classList.add("hit"));
    selected.textContent = `${target.title}: ${hits.length} ${hits.length === 1 ? "image" : "images"}`;
  }

  map.querySelectorAll("button").forEach((button) => button.addEventListener("click", () => {
    const factor = Number(button.dataset.zoom);
    if (factor) return zoom(factor, view.clientWidth / 2, view.clientHeight / 2);
    scale = 1;
    place();
  }));
  view.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && scale === 1) return;  // the page scrolls
    event.preventDefault();
    const area = view.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), event.clientX - area.left, event.clientY - area.top);
  }, { passive: false });
  view.addEventListener("dblclick", (event) => {
    const area = view.getBoundingClientRect();
    zoom(2, event.clientX - area.left, event.clientY - area.top);
  });
  view.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event);
    moved = fingers.size > 1 ? 99 : 0;
    spread = 0;
  });
  view.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    fingers.set(event.pointerId, event);
    const dx = event.clientX - before.clientX, dy = event.clientY - before.clientY;
    moved += Math.abs(dx) + Math.abs(dy);
    if (fingers.size === 2) {
      const [a, b] = [...fingers.values()], area = view.getBoundingClientRect();
      const now = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
      if (spread) zoom(now / spread, (a.clientX + b.clientX) / 2 - area.left, (a.clientY + b.clientY) / 2 - area.top);
      spread = now;
    } else if (scale > 1 && moved > 4) {
      if (!view.hasPointerCapture(event.pointerId)) view.setPointerCapture(event.pointerId);
      left += dx;
      top += dy;
      place();
    }
  });
  for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
    view.addEventListener(name, (event) => { fingers.delete(event.pointerId); spread = 0; });
  }
  view.addEventListener("click", (event) => {
    if (moved <= 4) select(event.target.closest("[data-g]"));
  });
})();
