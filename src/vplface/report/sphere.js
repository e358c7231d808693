// Drag turns all globes of a picture together; the arrow keys do, too. Without this script they stand still.
document.querySelectorAll(".spheres").forEach((group) => {
  const globes = [...group.querySelectorAll(".turnable")];
  if (!globes.length) return;
  const radius = Number(globes[0].dataset.radius);
  let view = globes[0].dataset.view.split(" ").map(Number);
  const parts = globes.flatMap((globe) => [...globe.querySelectorAll("[data-at]")]).map((element) => ({
    element,
    points: element.dataset.at.split(" ").map((point) => point.split(",").map(Number)),
    symbol: element.hasAttribute("transform"),
    closed: element.hasAttribute("data-closed"),
  }));
  const seen = ([x, y, z]) => [0, 3, 6].map((row) => view[row] * x + view[row + 1] * y + view[row + 2] * z);
  const px = (value) => (radius * value).toFixed(1);
  const draw = () => parts.forEach(({ element, points, symbol, closed }) => {
    const at = points.map(seen);
    if (symbol) element.setAttribute("transform", `translate(${px(at[0][0])} ${px(-at[0][1])})`);
    else {
      let penDown = false;
      const d = at.map(([x, y, z]) => {
        const shown = closed || z >= 0;
        const move = shown ? `${penDown ? "L" : "M"}${px(x)} ${px(-y)}` : "";
        penDown = shown;
        return move;
      }).join("");
      element.setAttribute("d", (d || "M0 0") + (closed ? "Z" : ""));
    }
    if (symbol || closed) {
      element.classList.toggle("back", at.reduce((sum, point) => sum + point[2], 0) < 0);
    }
  });
  // The eye moves around the upright and the sideways axis of the screen.
  const turn = (right, up) => {
    const [a, b, c, d] = [Math.cos(right), Math.sin(right), Math.cos(up), Math.sin(up)];
    const [x, y, z] = [0, 3, 6].map((row) => view.slice(row, row + 3));
    const x2 = x.map((v, i) => a * v + b * z[i]);
    const z2 = z.map((v, i) => a * v - b * x[i]);
    view = [...x2, ...y.map((v, i) => c * v + d * z2[i]), ...z2.map((v, i) => c * v - d * y[i])];
    draw();
  };
  globes.forEach((globe) => {
    globe.setAttribute("tabindex", "0");
    globe.addEventListener("pointerdown", (event) => globe.setPointerCapture(event.pointerId));
    globe.addEventListener("pointermove", (event) => {
      if (event.buttons) turn(event.movementX / 150, -event.movementY / 150);
    });
    globe.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
      if (steps) { event.preventDefault(); turn(...steps); }
    });
  });
});
