// The charts answer together: each shows its values at the epoch that the pointer, or the arrow keys, are at.
"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const charts = Array.from(document.querySelectorAll(".chart"));
  const SVG = "http://www.w3.org/2000/svg";
  const LEFT = 46, RIGHT = 428, TOP = 12, BOTTOM = 214, WIDTH = 440;

  function nearest(points, x) {  // sorted by place
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle; else high = middle;
    }
    return x - points[low][0] <= points[high][0] - x ? points[low] : points[high];
  }

  function make(name, attributes) {
    const element = document.createElementNS(SVG, name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    return element;
  }

  function show(x) {
    charts.forEach(function (chart, number) {
      const group = chart.querySelector(".pointer");
      group.replaceChildren(make("line", {x1: x, x2: x, y1: TOP, y2: BOTTOM}));
      let epoch = "";
      data[number].lines.forEach(function (line, at) {
        const point = nearest(line.at, x);
        group.append(make("circle", {class: "line" + line.colour, cx: point[0], cy: point[1], r: 4}));
        chart.querySelectorAll(".legend b")[at].textContent = point[3];
        if (at === 0) epoch = point[2];
      });
      chart.querySelector(".read").textContent = "epoch " + epoch;
    });
  }

  function hide() {
    charts.forEach(function (chart) {
      chart.querySelector(".pointer").replaceChildren();
      chart.querySelector(".read").textContent = "";
      chart.querySelectorAll(".legend b").forEach(function (value) { value.textContent = ""; });
    });
  }

  let at = RIGHT;
  charts.forEach(function (chart) {
    const svg = chart.querySelector("svg");
    svg.addEventListener("pointermove", function (event) {
      const box = svg.getBoundingClientRect();
      at = Math.min(RIGHT, Math.max(LEFT, (event.clientX - box.left) / box.width * WIDTH));
      show(at);
    });
    svg.addEventListener("pointerleave", hide);
    chart.addEventListener("keydown", function (event) {
      const move = {ArrowLeft: -4, ArrowRight: 4}[event.key];
      if (!move) return;
      at = Math.min(RIGHT, Math.max(LEFT, at + move));
      show(at);
      event.preventDefault();
    });
    chart.addEventListener("blur", hide);
  });
})();
