"use strict";
// Draws the figures with Vega and the question explorer; see template.html for what it fills.
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const NARROW = 560; // px

  // ---- figures

  function config(width, labels) {
    const longest = Math.max(0, ...labels.map((label) => label.length));
    const narrow = width < NARROW;
    const own = structuredClone(data.config);
    own.legend.columns = Math.max(1, Math.floor((width - (narrow ? 110 : 50)) / (7.2 * longest + 40)));
    own.axisY.labelLimit = narrow ? 118 : 260;
    if (narrow) {
      own.axisX.tickCount = 4;
      own.legend.labelLimit = width - 140;
    }
    return own;
  }

  async function draw(figure, chosen) {
    const { datasets, views } = data.figures[figure.dataset.name];
    const view = views.find((each) => each.choice.every((value, i) => value === chosen[i]));
    const chart = figure.querySelector(".chart");
    chart.drawn?.finalize();
    figure.querySelector(".bindings").replaceChildren();
    if (!view) {
      chart.textContent = "There are no results for this choice.";
      return;
    }
    figure.querySelector(".figure-title").textContent = view.title;
    const labels = [...new Set([...datasets.points, ...(datasets.levels ?? [])].map((row) => row.label))];
    chart.drawn = await vegaEmbed(chart, { ...view.spec, datasets }, {
      mode: "vega-lite",
      renderer: "svg",
      actions: false,
      ast: true, // expressions are interpreted: the page's policy forbids eval
      config: config(chart.clientWidth, labels),
      bind: figure.querySelector(".bindings"),
      tooltip: { theme: "page" },
    });
    figure.dataset.drawn = "yes";
  }

  for (const figure of document.querySelectorAll("figure.plot")) {
    const controls = [...figure.querySelectorAll("[data-control]")];
    const chosen = () =>
      controls.map((c) => (c.matches("select") ? c : c.querySelector(":checked")).value);
    const redraw = () =>
      draw(figure, chosen()).catch((error) => {
        figure.querySelector(".chart").textContent = `This figure cannot be drawn: ${error}`;
        console.error(error);
      });
    controls.forEach((control) => control.addEventListener("change", redraw));
    matchMedia(`(max-width: ${NARROW}px)`).addEventListener("change", redraw);
    redraw();
  }

  // ---- question explorer

  const element = (name, content = [], attributes = {}) => {
    const made = document.createElement(name);
    made.append(...[content].flat());
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const percent = (share) => `${(100 * share).toFixed(1)} %`;

  function bar(share, kind) {
    const filled = element("i");
    filled.style.width = `${100 * share}%`;
    return element("td", [
      element("span", filled, { class: `bar ${kind}`, "aria-hidden": "true" }),
      element("span", percent(share), { class: "value" }),
    ]);
  }

  function card(question) {
    const head = element("tr", ["Option", "Answered", "Predicted"].map(
      (name) => element("th", name, { scope: "col" })));
    const rows = question.options.map((option, i) => element("tr", [
      element("th", option, { scope: "row" }),
      bar(question.true[i], "true"),
      bar(question.predicted[i], "predicted"),
    ]));
    const kind = question.seen ? "seen question" : "new question";
    return element("article", [
      element("h5", question.text),
      element("p", `Alignment score ${question.score.toFixed(3)}, ${kind}`, { class: "meta" }),
      element("table", [element("thead", head), element("tbody", rows)]),
    ], { class: "question" });
  }

  const select = document.getElementById("explorer-group");
  function explore() {
    const group = data.groups[Number(select.value)];
    const parts = [["best", "Best predicted"], ["median", "In the middle"], ["worst", "Worst predicted"]];
    document.getElementById("explorer-questions").replaceChildren(...parts.flatMap(([rank, title]) => {
      const cards = group.questions.filter((q) => q.rank === rank).map(card);
      return cards.length
        ? [element("h4", title), element("div", cards, { class: "questions" })]
        : [];
    }));
    document.getElementById("explorer-about").textContent =
      `${group.name}: ${group.role} group, ${group.targets} target questions, ` +
      `mean alignment score ${group.mean.toFixed(3)}.`;
  }
  if (select) {
    select.addEventListener("change", explore);
    explore();
  }
})();
