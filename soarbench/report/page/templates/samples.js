(() => {
  const viewer = document.getElementById("viewer");
  const role = (name, tag = "") => viewer.querySelector(`${tag}[data-role=${name}]`);

  // One viewer for all galleries: a row of one of them, with a method on either side.
  const slider = viewer.querySelector("input[type=range]");
  let gallery, row;

  const figureOf = (line, method) =>
    [...line.querySelectorAll(`td[data-method="${method}"] figure`)].find((one) => !one.hidden);
  const showSide = (side, image) => {
    const figure = figureOf(row, role(side, "select").value);
    image.src = figure ? figure.querySelector("img").src : "data:,";
    image.alt = figure ? figure.querySelector("img").alt : "not stored";
    role(side, "output").textContent = figure ? figure.querySelector("figcaption").textContent : "";
  };
  const wipe = () => viewer.style.setProperty("--wipe", `${slider.value}%`);
  const show = () => {
    document.getElementById("viewer-title").textContent = row.cells[0].textContent;
    showSide("left", viewer.querySelector(".over"));
    showSide("right", viewer.querySelector(".under"));
    wipe();
  };
  const move = (by) => {
    const rows = [...gallery.querySelectorAll("tbody tr")];
    row = rows[(rows.indexOf(row) + by + rows.length) % rows.length];
    show();
  };
  const open = (part, line, method) => {
    [gallery, row] = [part, line];
    const names = [...part.querySelectorAll("thead th[data-method]")];
    for (const side of ["left", "right"]) {
      role(side, "select").replaceChildren(...names.map((head) => new Option(head.textContent, head.dataset.method)));
    }
    const baseline = part.dataset.baseline || names[0].dataset.method;
    const other = names.map((head) => head.dataset.method).find((name) => name !== baseline);
    role("left", "select").value = baseline;
    role("right", "select").value = method === baseline ? other || baseline : method;
    slider.value = 50;
    show();
    viewer.showModal();
    slider.focus();
  };
  slider.addEventListener("input", wipe);
  role("previous").addEventListener("click", () => move(-1));
  role("next").addEventListener("click", () => move(1));
  for (const side of ["left", "right"]) role(side, "select").addEventListener("change", show);
  viewer.addEventListener("keydown", (event) => {
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    // In a list of methods these keys choose one.
    if (by === undefined || event.target.tagName === "SELECT") return;
    event.preventDefault();
    move(by);
  });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });

  for (const part of document.querySelectorAll("section.samples")) {
    const controls = part.querySelector(".controls");
    const steps = controls.querySelector("[data-role=step]");
    const order = controls.querySelector("[data-role=sort]");
    const buttons = [...controls.querySelectorAll("button")];
    const body = part.querySelector("tbody");

    const gain = (line, method) => {
      const scores = [method, part.dataset.baseline].map((name) => figureOf(line, name)?.dataset.score);
      return scores.every(Boolean) ? (scores[0] - scores[1]) * part.dataset.sign : NaN;
    };
    const sort = () => {
      if (order === null) return;
      const [method, sign] = order.value.startsWith("-") ? [order.value.slice(1), -1] : [order.value, 1];
      // Without both scores a prompt comes last in either direction.
      const place = (line) => { const own = gain(line, method) * sign; return Number.isNaN(own) ? -Infinity : own; };
      body.append(...[...body.rows].sort((a, b) => place(b) - place(a) || 0));
      part.querySelector("caption b").textContent = order.selectedOptions[0].textContent;
    };
    const caption = () => {
      for (const figure of part.querySelectorAll("tbody figure")) {
        const text = figure.dataset.score || "not scored";
        const method = figure.closest("td").dataset.method;
        const own = method === part.dataset.baseline ? NaN : gain(figure.closest("tr"), method) * part.dataset.sign;
        figure.querySelector("figcaption").textContent = figure.hidden || Number.isNaN(own)
          ? text : `${text} (${own < 0 ? "" : "+"}${own.toFixed(part.dataset.decimals)})`;
      }
    };
    const update = () => {
      const pressed = buttons.filter((button) => button.getAttribute("aria-pressed") === "true");
      const shown = new Set(pressed.map((button) => button.dataset.method));
      for (const cell of part.querySelectorAll("th[data-method], td[data-method]")) {
        cell.hidden = !shown.has(cell.dataset.method);
      }
      for (const figure of part.querySelectorAll("tbody figure")) {
        figure.hidden = steps !== null && figure.dataset.always !== "yes" && figure.dataset.step !== steps.value;
      }
      caption();
    };
    for (const button of buttons) {
      button.addEventListener("click", () => {
        const pressed = button.getAttribute("aria-pressed") === "true";
        button.setAttribute("aria-pressed", String(!pressed));
        update();
      });
    }
    steps?.addEventListener("change", () => { update(); sort(); });
    order?.addEventListener("change", sort);
    for (const button of part.querySelectorAll(".enlarge")) {
      button.addEventListener("click", () =>
        open(part, button.closest("tr"), button.closest("td").dataset.method));
    }
    controls.hidden = false;
    update();
    sort();
  }
})();
