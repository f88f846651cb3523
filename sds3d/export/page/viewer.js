// A small viewer of one GLB file (one mesh, float arrays, uint32 indices, PNG base colour or COLOR_0), WebGL 2, no libraries.
// Drag: turn. Wheel or pinch: distance. Double click: first view. The hash "#az=90&el=20&still" sets a view (degrees).
"use strict";
(() => {
  const canvas = document.getElementById("viewer"), note = document.getElementById("viewer-note");
  const holder = document.getElementById("asset");
  const fail = (why) => { note.textContent = "The 3D view is not available here: " + why + " The pictures below show the asset."; };
  const gl = canvas.getContext("webgl2", { antialias: true, alpha: false, preserveDrawingBuffer: true });
  if (!gl) { fail("this browser offers no WebGL 2."); return; }

  const bytes = Uint8Array.from(atob(holder.textContent.trim()), (c) => c.charCodeAt(0));
  const link = document.getElementById("download");
  if (link) link.href = URL.createObjectURL(new Blob([bytes], { type: "model/gltf-binary" }));

  const head = new DataView(bytes.buffer), size = head.getUint32(12, true);
  const tree = JSON.parse(new TextDecoder().decode(bytes.subarray(20, 20 + size)));
  const binary = bytes.subarray(28 + size);
  const view = (index) => { const v = tree.bufferViews[index]; return binary.slice(v.byteOffset || 0, (v.byteOffset || 0) + v.byteLength); };
  const array = (index) => {
    const data = view(tree.accessors[index].bufferView).buffer;
    return tree.accessors[index].componentType === 5125 ? new Uint32Array(data) : new Float32Array(data);
  };
  const primitive = tree.meshes[0].primitives[0], attributes = primitive.attributes;
  const material = (tree.materials || [{}])[primitive.material || 0];
  const surface = material.pbrMetallicRoughness || {}, factor = surface.baseColorFactor || [1, 1, 1, 1];

  const source = (kind, text) => { const s = gl.createShader(kind); gl.shaderSource(s, "#version 300 es\n" + text); gl.compileShader(s); return s; };
  const program = gl.createProgram();
  gl.attachShader(program, source(gl.VERTEX_SHADER, `
    layout(location=0) in vec3 position; layout(location=1) in vec3 normal; layout(location=2) in vec2 place; layout(location=3) in vec4 tint;
    uniform mat4 world_to_clip; out vec3 n, p, linear; out vec2 uv;
    void main() { n = normal; p = position; uv = place; linear = tint.rgb; gl_Position = world_to_clip * vec4(position, 1.0); }`));
  gl.attachShader(program, source(gl.FRAGMENT_SHADER, `
    precision highp float; in vec3 n, p, linear; in vec2 uv; out vec4 result;
    uniform vec3 eye, dim; uniform sampler2D picture; uniform bool has_picture; uniform int mode;
    vec3 decode(vec3 c) { return mix(c / 12.92, pow((c + 0.055) / 1.055, vec3(2.4)), step(0.04045, c)); }
    vec3 encode(vec3 c) { return mix(12.92 * c, 1.055 * pow(max(c, 1e-6), vec3(1.0 / 2.4)) - 0.055, step(0.0031308, c)); }
    void main() {
      vec3 albedo = encode((has_picture ? decode(texture(picture, uv).rgb) : linear) * dim), unit = normalize(n);
      float facing = dot(unit, normalize(eye - p));
      vec3 towards = facing < 0.0 ? -unit : unit;
      float light = 0.38 + 0.47 * abs(facing) + 0.15 * (0.5 + 0.5 * towards.y);
      result = vec4(mode == 1 ? albedo : mode == 2 ? 0.5 + 0.5 * unit.zxy : mode == 3 ? vec3(0.85 * light) : min(albedo * light, 1.0), 1.0);
    }`));
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) { fail("the graphics driver refused it."); return; }
  gl.useProgram(program);
  const uniform = (name) => gl.getUniformLocation(program, name);

  const upload = (location, index, width) => {
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, array(index), gl.STATIC_DRAW);
    gl.enableVertexAttribArray(location);
    gl.vertexAttribPointer(location, width, gl.FLOAT, false, 0, 0);
  };
  upload(0, attributes.POSITION, 3);
  upload(1, attributes.NORMAL, 3);
  if (attributes.TEXCOORD_0 !== undefined) upload(2, attributes.TEXCOORD_0, 2);
  if (attributes.COLOR_0 !== undefined) upload(3, attributes.COLOR_0, 4); else gl.vertexAttrib4f(3, 1, 1, 1, 1);
  const indices = array(primitive.indices);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, indices, gl.STATIC_DRAW);
  gl.enable(gl.DEPTH_TEST);
  gl.uniform3f(uniform("dim"), factor[0], factor[1], factor[2]);

  const bounds = tree.accessors[attributes.POSITION];
  const low = bounds.min, high = bounds.max, centre = low.map((value, k) => (value + high[k]) / 2);
  const radius = Math.max(1e-6, Math.hypot(...low.map((value, k) => (high[k] - value) / 2)));
  const hash = new URLSearchParams(location.hash.slice(1));
  const first = { azimuth: Number(hash.get("az") || 30), elevation: Number(hash.get("el") || 20), distance: 2.8 };
  let camera = { ...first }, turning = !hash.has("still"), mode = 0, drawn = 0;

  const draw = () => {
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale));
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0.96, 0.96, 0.95, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const a = camera.azimuth * Math.PI / 180, e = camera.elevation * Math.PI / 180, d = camera.distance * radius;
    const back = [Math.cos(e) * Math.sin(a), Math.sin(e), Math.cos(e) * Math.cos(a)]; // azimuth 0 looks at the front, +Z
    const right = [Math.cos(a), 0, -Math.sin(a)];
    const up = [back[1] * right[2] - back[2] * right[1], back[2] * right[0] - back[0] * right[2], back[0] * right[1] - back[1] * right[0]];
    const eye = centre.map((value, k) => value + d * back[k]);
    const dot = (u, v) => u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
    const focal = 1 / Math.tan(Math.PI / 8), aspect = canvas.width / canvas.height, wide = Math.min(1, aspect);
    const near = Math.max(d - 1.1 * radius, 0.01 * radius), far = d + 1.1 * radius;
    const rows = [
      right.map((v) => v * focal * wide / aspect).concat(-dot(right, eye) * focal * wide / aspect),
      up.map((v) => v * focal * wide).concat(-dot(up, eye) * focal * wide),
      back.map((v) => v * (far + near) / (near - far)).concat(-dot(back, eye) * (far + near) / (near - far) + 2 * far * near / (near - far)),
      back.map((v) => -v).concat(dot(back, eye)),
    ];
    gl.uniformMatrix4fv(uniform("world_to_clip"), true, new Float32Array(rows.flat()));
    gl.uniform3f(uniform("eye"), eye[0], eye[1], eye[2]);
    gl.uniform1i(uniform("mode"), mode);
    gl.drawElements(gl.TRIANGLES, indices.length, gl.UNSIGNED_INT, 0);
    canvas.dataset.drawn = ++drawn;
  };
  const loop = (before) => (now) => {
    if (turning) { camera.azimuth += 0.02 * Math.min(now - before, 50); draw(); requestAnimationFrame(loop(now)); }
  };
  const start = () => { draw(); if (turning) requestAnimationFrame(loop(performance.now())); };
  const stop = () => { turning = false; };

  const fingers = new Map();
  canvas.addEventListener("pointerdown", (event) => { stop(); canvas.setPointerCapture(event.pointerId); fingers.set(event.pointerId, [event.clientX, event.clientY]); });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
  const zoom = (share) => { camera.distance = Math.min(20, Math.max(1.2, camera.distance * share)); draw(); };
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const other = [...fingers].find(([id]) => id !== event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (other) {
      const gap = (point) => Math.max(1, Math.hypot(point[0] - other[1][0], point[1] - other[1][1]));
      zoom(gap(before) / gap([event.clientX, event.clientY]));
      return;
    }
    camera.azimuth -= 0.4 * (event.clientX - before[0]);
    camera.elevation = Math.min(89, Math.max(-89, camera.elevation + 0.4 * (event.clientY - before[1])));
    draw();
  });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); stop(); zoom(Math.exp(0.001 * event.deltaY)); }, { passive: false });
  canvas.addEventListener("dblclick", () => { camera = { ...first }; draw(); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, 10], ArrowDown: [0, -10] }[event.key];
    if (!step) return;
    event.preventDefault(); stop();
    camera.azimuth += step[0];
    camera.elevation = Math.min(89, Math.max(-89, camera.elevation + step[1]));
    draw();
  });
  for (const button of document.querySelectorAll("button[data-mode]")) button.addEventListener("click", () => {
    mode = Number(button.dataset.mode);
    for (const other of document.querySelectorAll("button[data-mode]")) other.setAttribute("aria-pressed", String(other === button));
    draw();
  });
  window.addEventListener("resize", draw);

  const chosen = surface.baseColorTexture;
  gl.uniform1i(uniform("has_picture"), chosen ? 1 : 0);
  if (!chosen) { start(); return; }
  const image = tree.images[tree.textures[chosen.index].source], picture = new Image();
  picture.onload = () => {
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, picture);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    start();
  };
  picture.onerror = () => fail("its texture cannot be decoded.");
  picture.src = URL.createObjectURL(new Blob([view(image.bufferView)], { type: image.mimeType }));
})();
