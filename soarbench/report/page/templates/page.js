"use strict";
(() => {
  const announce = (text) => { document.getElementById("announcer").textContent = text; };

  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.sort !== undefined && cell.dataset.sort !== "") return Number(cell.dataset.sort);
    const text = cell.textContent.trim();
    const number = Number(text.replaceAll(",", ""));
    return text !== "" && !Number.isNaN(number) ? number : text.toLowerCase();
  };
  // Numbers before texts, and what is missing last in either direction.
  const compare = (a, b, direction) => {
    const gone = (value) => value === "-" || value === "";
    if (gone(a) || gone(b)) return gone(a) - gone(b);
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    if (a === b) return 0;
    return (a < b ? -1 : 1) * direction;
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    if (body.rows.length < 2) continue;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const falling = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        const rows = [...body.rows];
        rows.sort((a, b) => compare(key(a, column), key(b, column), falling ? -1 : 1));
        body.append(...rows);
        announce(`Sorted by ${button.textContent}, ${falling ? "falling" : "rising"}`);
      });
    });
  }
})();
