"use strict";

/* What can be told without a page: tests call these functions as they are. */
const logic = {
  /* Bytes of base64 text. */
  bytesOf(text) {
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    return bytes;
  },

  /* Bytes that zlib packed. */
  async unpacked(bytes) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  },

  /* Codes (bands, rows, columns) from planes of low and, where they are wide, high bytes; differences are summed. */
  codesOf(bytes, [bands, rows, columns], wide, differences) {
    const size = rows * columns, total = bands * size;
    const codes = wide ? new Uint16Array(total) : new Uint8Array(total);
    for (let i = 0; i < total; i++) codes[i] = wide ? bytes[i] | (bytes[total + i] << 8) : bytes[i];
    if (!differences) return codes;
    for (let band = 0; band < bands; band++) {
      for (let row = 0; row < rows; row++) {
        const start = band * size + row * columns;
        if (row) codes[start] += codes[start - columns];
        for (let i = start + 1; i < start + columns; i++) codes[i] += codes[i - 1];
      }
    }
    return codes;
  },

  /* The number that a code stands for; NaN where it is missing. */
  numberOf(code, scale) {
    if (code === 0) return NaN;
    if (scale.log === undefined) return scale.least + (code - 1) * scale.step;
    return code === 1 ? 0 : Math.exp(scale.log + (code - 2) * scale.step);
  },

  /* The pixel [row, column] at a place of a box on the screen. */
  pixelAt(x, y, box, rows, columns) {
    const within = (v, n) => Math.min(n - 1, Math.max(0, Math.floor(v * n)));
    return [within((y - box.top) / box.height, rows), within((x - box.left) / box.width, columns)];
  },

  /* Where a divider is, in [0, 1], for a place on the screen. */
  dividerAt(x, box) {
    return Math.min(1, Math.max(0, (x - box.left) / box.width));
  },

  /* How two pictures are cut at a divider, in CSS. */
  clips(at) {
    const percent = (v) => `${(100 * v).toFixed(3)}%`;
    return { left: `inset(0 ${percent(1 - at)} 0 0)`, right: `inset(0 0 0 ${percent(at)})` };
  },

  /* Decimals that a number deserves whose error bar is this wide. */
  decimals(std) {
    if (!(std > 0)) return 2;
    return Math.min(12, Math.max(0, 1 - Math.floor(Math.log10(std))));
  },

  /* What is known of a pixel: of every band value, standard deviation and interval, NaN where there is none. */
  figuresAt(data, row, column) {
    const [bands, rows, columns] = data.shape;
    const found = [];
    for (let band = 0; band < bands; band++) {
      const i = band * rows * columns + row * columns + column;
      const of = (name) => (data[name] ? logic.numberOf(data[name].codes[i], data[name].scale) : NaN);
      const value = of("value"), std = of("std");
      const lower = of("lower"), upper = data.upper ? of("upper") : lower; // in standard deviations
      found.push({ value, std, low: value - lower * std, high: value + upper * std });
    }
    return found;
  },

  /* A standard deviation's colour [red, green, blue] between stops. */
  colourOf(value, top, stops) {
    const place = Math.min(1, Math.max(0, value / top)) * (stops.length - 1);
    const i = Math.min(stops.length - 2, Math.floor(place)), part = place - i;
    return stops[i].map((low, k) => Math.round(low + part * (stops[i + 1][k] - low)));
  },

  /* How much of a colour is seen, in [0, 1]: at full strength all of it, below it less where the bar is short. */
  opacity(value, top, strength) {
    const share = Math.min(1, Math.max(0, value / top));
    return strength * (strength + (1 - strength) * share);
  },

  /* The cursor after a key. */
  moved([row, column], key, far, rows, columns) {
    const by = far ? 10 : 1;
    const step = { ArrowUp: [-by, 0], ArrowDown: [by, 0], ArrowLeft: [0, -by], ArrowRight: [0, by] }[key];
    if (!step) return null;
    const within = (v, n) => Math.min(n - 1, Math.max(0, v));
    return [within(row + step[0], rows), within(column + step[1], columns)];
  },
};

if (typeof module !== "undefined") module.exports = logic;

if (typeof document !== "undefined") {
  const about = JSON.parse(document.getElementById("about").textContent);
  const get = (id) => document.getElementById(id);
  const stage = get("stage"), viewport = get("viewport"), readout = get("readout");
  const images = about.pictures.map((_, i) => get(`picture-${i}`));
  const [, rows, columns] = about.shape;
  const samples = about.pictures.flatMap((p, i) => (p.sample ? [i] : []));
  const state = { left: 0, right: about.right, at: 0.5, blinking: null, cursor: null, data: null };
  document.documentElement.classList.add("js");

  const options = (select, chosen) => {
    about.pictures.forEach((p, i) => select.add(new Option(p.name, i, i === chosen, i === chosen)));
    select.disabled = about.pictures.length < 2;
  };

  function draw() {
    const clips = logic.clips(state.at), blinking = state.blinking;
    images.forEach((image, i) => {
      const seen = blinking === null ? i === state.left || i === state.right : i === blinking;
      image.classList.toggle("hidden", !seen);
      const same = state.left === state.right || blinking !== null;
      image.style.clipPath = same ? "none" : i === state.left ? clips.left : clips.right;
    });
    const split = blinking === null && state.left !== state.right;
    get("line").hidden = !split;
    get("line").style.left = `${100 * state.at}%`;
    get("left-tag").textContent = about.pictures[blinking === null ? state.left : blinking].name;
    get("right-tag").textContent = about.pictures[state.right].name;
    get("right-tag").hidden = !split;
    get("divider").value = Math.round(1000 * state.at);
    get("divider").setAttribute("aria-valuetext", `${Math.round(100 * state.at)} %`);
  }

  function resize() {
    const zoom = get("zoom").value, aspect = columns / rows;
    const room = viewport.clientWidth;
    const width = zoom === "fit"
      ? Math.min(room, Math.max(280, innerHeight - 340) * aspect) // with its tools and figures on one screen
      : columns * Number(zoom);
    stage.style.width = `${width}px`;
    stage.style.height = `${width / aspect}px`;
    stage.classList.toggle("crisp", width > 1.5 * columns);
    mark();
  }

  function mark() {
    const mark_ = get("cursor");
    mark_.hidden = state.cursor === null;
    if (mark_.hidden) return;
    const width = Math.max(9, stage.clientWidth / columns), height = Math.max(9, stage.clientHeight / rows);
    mark_.style.width = `${width}px`;
    mark_.style.height = `${height}px`;
    mark_.style.left = `${((state.cursor[1] + 0.5) / columns) * stage.clientWidth - width / 2}px`;
    mark_.style.top = `${((state.cursor[0] + 0.5) / rows) * stage.clientHeight - height / 2}px`;
  }

  const cell = (kind, text) => Object.assign(document.createElement(kind), { textContent: text });

  function read(row, column) {
    state.cursor = [row, column];
    mark();
    if (!state.data) return;
    const span = (place, size) => (about.step === 1 ? `${place}`
      : `${place * about.step} to ${Math.min(size, (place + 1) * about.step) - 1}`);
    const where = `Row ${span(row, about.size[0])}, column ${span(column, about.size[1])}`;
    const found = logic.figuresAt(state.data, row, column);
    const table = document.createElement("table"), head = table.createTHead().insertRow();
    head.append(cell("th", ""), cell("th", "value"));
    if (about.bars) head.append(cell("th", "standard deviation"), cell("th", `${about.percent} % interval`));
    const body = table.createTBody();
    found.forEach((f, band) => {
      const line = body.insertRow(), digits = Math.max(about.decimals, logic.decimals(about.bars ? f.std : 0));
      const text = (v) => (Number.isNaN(v) ? "missing" : v.toFixed(about.bars ? logic.decimals(f.std) : digits));
      line.append(cell("th", about.bands[band]), cell("td", text(f.value)));
      if (about.bars) {
        line.append(cell("td", text(f.std)));
        line.append(cell("td", Number.isNaN(f.low) ? "missing" : `${text(f.low)} to ${text(f.high)}`));
      }
    });
    readout.replaceChildren(cell("p", about.unit ? `${where}, ${about.unit}` : where), table);
  }

  function colour() {
    const canvas = get("colours"), on = get("overlay").checked && state.data && about.bars;
    canvas.hidden = !on;
    if (!on) return;
    const [bands] = about.shape, size = rows * columns, { codes, scale } = state.data.std;
    if (!state.mean) {
      const table = Float64Array.from({ length: 256 }, (_, code) => logic.numberOf(code, scale));
      state.mean = new Float32Array(size);
      for (let band = 0; band < bands; band++) {
        for (let i = 0; i < size; i++) state.mean[i] += table[codes[band * size + i]] / bands;
      }
    }
    canvas.width = columns;
    canvas.height = rows;
    const context = canvas.getContext("2d"), picture = context.createImageData(columns, rows);
    const strength = get("strength").value / 100, pixels = picture.data;
    const levels = Array.from({ length: 256 }, (_, k) => {
      const value = (k / 255) * about.top;
      return [...logic.colourOf(value, about.top, about.stops), 255 * logic.opacity(value, about.top, strength)];
    });
    for (let i = 0; i < size; i++) {
      if (Number.isNaN(state.mean[i])) continue;
      pixels.set(levels[Math.min(255, Math.round((255 * state.mean[i]) / about.top))], 4 * i);
    }
    context.putImageData(picture, 0, 0);
  }

  let timer = null;
  function blink(on) {
    clearInterval(timer);
    state.blinking = on ? samples[0] : null;
    if (on) timer = setInterval(() => {
      state.blinking = state.blinking === samples[0] ? samples[1] : samples[0];
      draw();
    }, 600);
    get("blink").setAttribute("aria-pressed", String(on));
    draw();
  }

  options(get("left"), state.left);
  options(get("right"), state.right);
  get("blink").hidden = samples.length < 2;
  get("bars").hidden = !about.bars;
  get("divider").closest("label").hidden = about.pictures.length < 2;
  if (about.bars) {
    const gradient = about.stops.map((c) => `rgb(${c.join(",")})`).join(",");
    document.querySelector(".gradient").style.background = `linear-gradient(90deg, ${gradient})`;
  }

  for (const side of ["left", "right"]) {
    get(side).addEventListener("change", (event) => { state[side] = Number(event.target.value); blink(false); });
  }
  get("divider").addEventListener("input", (event) => { state.at = event.target.value / 1000; draw(); });
  get("zoom").addEventListener("change", resize);
  get("blink").addEventListener("click", () => blink(state.blinking === null));
  get("overlay").addEventListener("change", colour);
  get("strength").addEventListener("input", () => { get("overlay").checked = true; colour(); });
  addEventListener("resize", resize);

  let dragging = false;
  const box = () => stage.getBoundingClientRect();
  get("grip").addEventListener("pointerdown", (event) => {
    dragging = true;
    get("grip").setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  get("grip").addEventListener("pointermove", (event) => {
    if (!dragging) return;
    state.at = logic.dividerAt(event.clientX, box());
    draw();
  });
  for (const end of ["pointerup", "pointercancel"]) get("grip").addEventListener(end, () => { dragging = false; });
  for (const kind of ["pointermove", "pointerdown"]) {
    stage.addEventListener(kind, (event) => {
      if (!dragging) read(...logic.pixelAt(event.clientX, event.clientY, box(), rows, columns));
    });
  }
  viewport.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const start = state.cursor || [Math.floor(rows / 2), Math.floor(columns / 2)];
    const next = logic.moved(start, event.key, event.shiftKey, rows, columns);
    if (next) read(...next);
    else if (event.key === "b" && samples.length > 1) blink(state.blinking === null);
    else if (event.key === "e" && about.bars) { get("overlay").checked = !get("overlay").checked; colour(); }
    else if (event.key === "," || event.key === ".") {
      state.at = Math.min(1, Math.max(0, state.at + (event.key === "," ? -0.02 : 0.02)));
      draw();
    } else if (event.key === "z") {
      get("zoom").selectedIndex = (get("zoom").selectedIndex + 1) % get("zoom").options.length;
      resize();
    } else return;
    event.preventDefault();
  });

  async function load() {
    const data = { shape: about.shape };
    for (const [name, made] of Object.entries(about.arrays)) {
      const bytes = await logic.unpacked(logic.bytesOf(get(`array-${name}`).textContent));
      data[name] = { codes: logic.codesOf(bytes, about.shape, made.wide, made.differences), scale: made.scale };
    }
    state.data = data;
    colour();
    if (state.cursor) read(...state.cursor);
  }

  draw();
  resize();
  load().catch((error) => {
    get("bars").hidden = true;
    readout.replaceChildren(cell("p", `This browser cannot unpack the figures of the pixels (${error.message}); take one of 2023 or later.`));
  }).finally(() => document.documentElement.classList.add("ready"));
}
