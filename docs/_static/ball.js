// One layer with three units: the reader sets the radius and the gradient and sees the projection and the new radius.
(() => {
  const box = document.getElementById("ball");
  if (!box) return;
  const units = [[1.1, 0.7], [-0.65, 0.85], [0.35, -0.45]]; // displacements c_i; a kernel [2, 3]
  const norm = (c) => Math.abs(c[0]) + Math.abs(c[1]);
  const largest = Math.max(...units.map(norm));
  const state = { gamma: 1, angle: 20 };

  box.innerHTML = `
    <svg viewBox="-1.85 -1.85 3.7 3.7" role="img" aria-label="Three units, the ball, and the gradient"></svg>
    <label>radius &gamma; <input type="range" min="0" max="${largest}" step="0.01" data-is="gamma"></label>
    <label>direction of &minus;g <input type="range" min="-180" max="180" step="1" data-is="angle"></label>
    <button type="button">let the radius learn</button> <output></output>`;
  const svg = box.querySelector("svg");
  const output = box.querySelector("output");

  const line = (from, to, name) =>
    `<line class="${name}" x1="${from[0]}" y1="${-from[1]}" x2="${to[0]}" y2="${-to[1]}"/>` +
    `<circle class="${name}" cx="${to[0]}" cy="${-to[1]}" r="0.035"/>`;
  const ratio = (c) => Math.min(1, state.gamma / norm(c));
  const downhill = () => [Math.cos((state.angle * Math.PI) / 180), Math.sin((state.angle * Math.PI) / 180)];
  // h = sum of <g, c_i> / n_i over all units (released), or over those outside the ball (exact)
  const slope = (some) => units.filter(some).reduce((sum, c) => {
    const d = downhill();
    return sum - (d[0] * c[0] + d[1] * c[1]) / norm(c);
  }, 0);

  function draw() {
    const g = state.gamma;
    const arrows = units.map((c) => {
      const end = c.map((x) => x * ratio(c));
      const tip = end.map((x, k) => x + 0.3 * downhill()[k]);
      return line([0, 0], c, "free") + line([0, 0], end, "kept") + line(end, tip, "downhill");
    });
    svg.innerHTML = `<polygon points="${g},0 0,${-g} ${-g},0 0,${g}"/>${arrows.join("")}<circle class="anchor" r="0.05"/>`;
    const released = slope(() => true);
    const exact = slope((c) => norm(c) > g);
    const verdict = released < 0 ? "grows" : "shrinks";
    output.textContent = `γ = ${g.toFixed(2)}, h = ${released.toFixed(2)} (exact: ${exact.toFixed(2)}): the radius ${verdict}`;
    for (const input of box.querySelectorAll("input")) input.value = state[input.dataset.is];
  }

  box.addEventListener("input", (event) => {
    state[event.target.dataset.is] = Number(event.target.value);
    draw();
  });
  box.querySelector("button").addEventListener("click", () => {
    state.gamma = Math.min(largest, Math.max(0.01, state.gamma - 0.1 * Math.sign(slope(() => true))));
    draw();
  });
  draw();
})();
