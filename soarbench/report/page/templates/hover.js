(() => {
  // The nearest mark within reach, so that small markers need no steady hand.
  const REACH = 24;
  const tip = document.getElementById("tip");
  const marks = (svg) => [...svg.querySelectorAll(".hover title")].map((title) => title.parentNode);
  const middle = (mark) => {
    const box = mark.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const distance = (mark, event) => {
    const box = mark.getBoundingClientRect();
    const beyond = (value, low, high) => Math.max(low - value, 0, value - high);
    return Math.hypot(beyond(event.clientX, box.left, box.right), beyond(event.clientY, box.top, box.bottom));
  };
  for (const svg of document.querySelectorAll(".figure svg")) {
    const own = marks(svg);
    for (const mark of own) {
      const title = mark.querySelector("title");
      mark.dataset.label = title.textContent;
      // Else browsers would show it, too.
      title.remove();
    }
    svg.addEventListener("pointermove", (event) => {
      const near = own.map((mark) => [distance(mark, event), mark]).sort((a, b) => a[0] - b[0])[0];
      tip.hidden = near === undefined || near[0] > REACH;
      if (tip.hidden) return;
      const [x, y] = middle(near[1]);
      tip.textContent = near[1].dataset.label;
      tip.style.left = `${Math.min(x + scrollX, scrollX + innerWidth - tip.offsetWidth - 16)}px`;
      tip.style.top = `${y + scrollY - tip.offsetHeight - 12}px`;
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
})();
