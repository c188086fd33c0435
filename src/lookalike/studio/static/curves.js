"use strict";
// Curves of one run or several, fetched again while one of them trains.
const place = document.querySelector("[data-curves]");
const charts = {}, TITLES = { loss: "loss", recall_at_1: "Recall@1", map_at_r: "MAP@R" };

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A name in a legend: the ends of runs' names tell them apart.
const short = (name) => (name.length > 30 ? `${name.slice(0, 8)}…${name.slice(-20)}` : name);

function draw(box, runs, key) {
  const shown = runs.filter((run) => run[key][0].length);
  const old = charts[key];
  const data = uPlot.join(shown.map((run) => run[key]));
  const names = shown.map((run) => run.name).join("\n");
  if (old && old.names === names) return old.plot.setData(data);
  if (old) old.plot.destroy();
  const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") } };
  const plot = new uPlot({
    width: box.clientWidth, height: 220, scales: { x: { time: false } },
    axes: [{ ...axis }, { ...axis, size: 58 }],
    series: [{ label: "step" }, ...shown.map((run, at) => ({
      label: runs.length > 1 ? short(run.name) : TITLES[key], stroke: color("--c" + (at % 4)), width: 2, spanGaps: true,
      dash: at > 3 ? [6, 4] : undefined, points: { show: run[key][0].length < 40 },
    }))],
  }, data, box);
  charts[key] = { plot, names };
}

async function refresh() {
  let wait = 3000;
  try {
    const answer = await fetch(place.dataset.curves);
    if (answer.ok) {
      const runs = await answer.json();
      let any = false;
      for (const box of place.querySelectorAll("[data-curve]")) {
        const found = runs.some((run) => run[box.dataset.curve][0].length);
        box.parentElement.hidden = !found;  // before drawing: a hidden box has no width
        if (found) draw(box, runs, box.dataset.curve);
        any = any || found;
      }
      place.querySelector(".empty").hidden = any;
      if (!runs.some((run) => run.live)) return;
    }
  } catch { wait = 10000; }
  setTimeout(refresh, wait);
}

addEventListener("resize", () => {
  for (const box of place.querySelectorAll("[data-curve]")) {
    const chart = charts[box.dataset.curve];
    if (chart) chart.plot.setSize({ width: box.clientWidth, height: 220 });
  }
});
if (place) refresh();
