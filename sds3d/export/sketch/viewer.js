"use strict";
// Draws the strokes of a sketch in perspective; drag to orbit, wheel to come nearer. World +Z is up, azimuth 0 is +X.
const sketch = JSON.parse(document.getElementById("sketch").textContent);
const canvas = document.getElementById("picture"), paint = canvas.getContext("2d");
const button = document.getElementById("play"), slider = document.getElementById("frame");
const view = JSON.parse(document.getElementById("view").textContent);
const SAMPLES = 24, NEAR = 0.05;
let playing = sketch.frames > 1 && view.play, spinning = view.spin, frame = 0, before = 0;

function bernstein(t) {
  const s = 1 - t;
  return [s * s * s, 3 * t * s * s, 3 * t * t * s, t * t * t];
}
const basis = Array.from({ length: SAMPLES + 1 }, (_, k) => bernstein(k / SAMPLES));

function rotate(q, v) {  // quaternion wxyz
  const [w, x, y, z] = q, c = [y * v[2] - z * v[1], z * v[0] - x * v[2], x * v[1] - y * v[0]];
  const d = [y * c[2] - z * c[1], z * c[0] - x * c[2], x * c[1] - y * c[0]];
  return v.map((value, i) => value + 2 * (w * c[i] + d[i]));
}

function blendSimilarity(a, b, f) {
  const sign = a[1] * b[1] + a[2] * b[2] + a[3] * b[3] + a[4] * b[4] < 0 ? -1 : 1;
  const mixed = a.map((value, i) => value * (1 - f) + (i > 0 && i < 5 ? sign : 1) * b[i] * f);
  const size = Math.hypot(mixed[1], mixed[2], mixed[3], mixed[4]);
  for (let i = 1; i < 5; i++) mixed[i] /= size;
  return mixed;
}

function controlPoints(n, at) {  // of stroke n at a frame that need not be whole
  const rest = sketch.strokes[n].points, motion = sketch.motion;
  if (!motion) return { points: rest, scale: 1 };
  const last = sketch.frames - 1, low = Math.min(Math.floor(at), last), f = at - low;
  const high = low < last ? low + 1 : (sketch.loop ? 0 : last);
  const s = blendSimilarity(motion.similarity[low], motion.similarity[high], f), c = motion.centre;
  const points = rest.map((p, k) => {
    const d = motion.offsets ? [0, 1, 2].map(i => motion.offsets[low][n][k][i] * (1 - f) + motion.offsets[high][n][k][i] * f) : [0, 0, 0];
    const turned = rotate(s.slice(1, 5), p.map((value, i) => value + d[i] - c[i]));
    return turned.map((value, i) => s[0] * value + c[i] + s[5 + i]);
  });
  return { points, scale: s[0] };
}

function draw() {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * ratio; canvas.height = height * ratio;
  paint.setTransform(ratio, 0, 0, ratio, 0, 0);
  paint.fillStyle = "white"; paint.fillRect(0, 0, width, height);
  paint.lineCap = paint.lineJoin = "round";
  const a = view.azimuth * Math.PI / 180, e = view.elevation * Math.PI / 180, size = Math.min(width, height);
  const focal = 0.5 * size / Math.tan(0.5 * view.fov * Math.PI / 180), limit = 4 * Math.max(size / 256, 1);
  const right = [-Math.sin(a), Math.cos(a), 0];
  const out = [Math.cos(e) * Math.cos(a), Math.cos(e) * Math.sin(a), Math.sin(e)];
  const up = [-Math.sin(e) * Math.cos(a), -Math.sin(e) * Math.sin(a), Math.cos(e)];
  const dot = (p, q) => p[0] * q[0] + p[1] * q[1] + p[2] * q[2];
  const lines = sketch.strokes.map((stroke, n) => {
    const { points, scale } = controlPoints(n, frame), places = [];
    for (let m = 0; m + 3 < points.length; m += 3)
      for (let k = m ? 1 : 0; k <= SAMPLES; k++) {
        const p = [0, 0, 0]; let total = 0;
        for (let i = 0; i < 4; i++) {
          const w = basis[k][i] * (stroke.weights ? stroke.weights[m + i] : 1); total += w;
          for (let j = 0; j < 3; j++) p[j] += w * points[m + i][j];
        }
        const q = p.map(value => value / total), z = view.distance - dot(q, out);
        places.push([width / 2 + focal * dot(q, right) / z, height / 2 - focal * dot(q, up) / z, z]);
      }
    return { stroke, places, scale, depth: places.reduce((sum, p) => sum + p[2], 0) / places.length };
  });
  for (const { stroke, places, scale, depth } of lines.sort((p, q) => q.depth - p.depth)) {
    if (places.some(p => p[2] <= NEAR)) continue;
    const [r, g, b] = stroke.colour.map(value => Math.round(255 * value));
    paint.strokeStyle = `rgba(${r},${g},${b},${stroke.opacity})`;
    paint.lineWidth = 2 * Math.min(Math.max(focal * stroke.half_width * scale / depth, 0.3), limit);
    paint.beginPath();
    places.forEach((p, i) => i ? paint.lineTo(p[0], p[1]) : paint.moveTo(p[0], p[1]));
    paint.stroke();
  }
}

function tick(now) {
  const seconds = Math.min((now - before) / 1000, 0.1), length = sketch.loop ? sketch.frames : sketch.frames - 1;
  before = now;
  if (playing) { frame = (frame + seconds * sketch.fps) % length; slider.value = frame; }
  if (spinning) view.azimuth += 30 * seconds;
  if (playing || spinning) draw();
  requestAnimationFrame(tick);
}

let held = [0, 0];  // where the pointer was; browsers do not agree about the unit of movementX
canvas.addEventListener("pointerdown", event => { held = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); });
canvas.addEventListener("pointermove", event => {
  if (!event.buttons) return;
  spinning = false;
  view.azimuth -= 0.4 * (event.clientX - held[0]);
  view.elevation = Math.max(-89, Math.min(89, view.elevation + 0.4 * (event.clientY - held[1])));
  held = [event.clientX, event.clientY];
  draw();
});
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  view.distance = Math.max(0.5, Math.min(20, view.distance * Math.exp(event.deltaY * 0.001)));
  draw();
}, { passive: false });
document.addEventListener("keydown", event => {
  const turn = { ArrowLeft: [-5, 0], ArrowRight: [5, 0], ArrowUp: [0, 5], ArrowDown: [0, -5] }[event.key];
  if (!turn || event.target === slider) return;
  spinning = false;
  view.azimuth += turn[0]; view.elevation = Math.max(-89, Math.min(89, view.elevation + turn[1])); draw();
});
document.getElementById("spin").addEventListener("click", () => { spinning = !spinning; });
if (sketch.frames > 1) {
  slider.max = sketch.loop ? sketch.frames : sketch.frames - 1;
  button.addEventListener("click", () => { playing = !playing; button.textContent = playing ? "Pause" : "Play"; });
  slider.addEventListener("input", () => { playing = false; button.textContent = "Play"; frame = Math.min(+slider.value, sketch.frames - 0.001); draw(); });
  button.textContent = playing ? "Pause" : "Play";
} else { button.hidden = slider.hidden = true; }
new ResizeObserver(draw).observe(canvas);  // also where the page is part of another, whose layout comes later
draw();
requestAnimationFrame(now => { before = now; tick(now); });
