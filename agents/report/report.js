"use strict";
// Fills the figures with what is in view, at the resolution of the screen, and keeps the table of trades.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = read("series");
  const figures = read("figures");
  const CANDLES = 360; // candlesticks drawn at once
  const POINTS = 900; // buckets of a line; each keeps its lowest and highest value
  const MARKS = 1500; // marks drawn at once
  const KEPT = new Set(["stop", "take-profit", "liquidation", "emergency"]); // never thinned out

  const types = { f4: Float32Array, f8: Float64Array, u1: Uint8Array };
  const unpack = ({ dtype, bdata }) => {
    const text = atob(bdata);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return new types[dtype](bytes.buffer);
  };
  const unpackAll = (values) =>
    Object.fromEntries(Object.entries(values).map(([name, packed]) => [name, unpack(packed)]));

  const { start, step, count } = data.grid;
  const candles = Object.fromEntries(
    Object.entries(data.candles).map(([symbol, columns]) => [symbol, unpackAll(columns)]),
  );
  const lines = {
    equity: unpackAll(data.equity),
    drawdown: unpackAll(data.drawdown),
  };
  const exposure = unpackAll(data.exposure);
  const { total, ...packedTrades } = data.trades;
  const trades = unpackAll(packedTrades);
  let symbol = data.symbols[0];

  const two = (value) => String(value).padStart(2, "0");
  const when = (ms) => {
    if (ms === null) return "";
    const at = new Date(ms);
    return (
      `${at.getUTCFullYear()}-${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())} ` +
      `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`
    );
  };
  const number = (value, digits) =>
    value === null ? "" : value.toLocaleString("en-US", { maximumFractionDigits: digits });
  const fixed = (value, digits) =>
    value === null
      ? ""
      : value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const price = (value) => number(value, value !== null && Math.abs(value) < 10 ? 6 : 2);

  // --- what is in view -----------------------------------------------------------------------------------

  const view = (from, to) => {
    const first = Math.max(0, Math.floor((from - start) / step) - 1);
    const last = Math.min(count, Math.ceil((to - start) / step) + 1);
    return [first, Math.max(first + 1, last)];
  };

  const candlesIn = (first, last) => {
    const { open, high, low, close } = candles[symbol];
    const group = Math.max(1, Math.ceil((last - first) / CANDLES));
    const out = { x: [], open: [], high: [], low: [], close: [] };
    // Groups lie on a grid of their own, so that panning does not change them.
    for (let from = first - (first % group); from < last; from += group) {
      const to = Math.min(from + group, count);
      let highest = -Infinity;
      let lowest = Infinity;
      for (let i = from; i < to; i++) {
        if (high[i] > highest) highest = high[i];
        if (low[i] < lowest) lowest = low[i];
      }
      out.x.push(start + ((from + to) / 2) * step);
      out.open.push(open[from]);
      out.high.push(highest);
      out.low.push(lowest);
      out.close.push(close[to - 1]);
    }
    return out;
  };

  // The value of candle i stands at its close.
  const lineIn = (values, first, last) => {
    const end = Math.min(last, values.length);
    const group = Math.max(1, Math.ceil((end - first) / POINTS));
    const x = [];
    const y = [];
    for (let from = first - (first % group); from < end; from += group) {
      const to = Math.min(from + group, end);
      let low = from;
      let high = from;
      for (let i = from; i < to; i++) {
        if (values[i] < values[low]) low = i;
        if (values[i] > values[high]) high = i;
      }
      for (const i of low === high ? [low] : low < high ? [low, high] : [high, low]) {
        x.push(start + (i + 1) * step);
        y.push(values[i]);
      }
      const tip = to - 1;
      if (to === values.length && tip !== low && tip !== high) {
        x.push(start + to * step);
        y.push(values[tip]);
      }
    }
    return { x, y };
  };

  const marksIn = (from, to) => {
    const column = data.symbols.indexOf(symbol);
    const seen = [];
    for (let i = 0; i < trades.time.length; i++) {
      if (trades.symbol[i] === column && trades.time[i] >= from && trades.time[i] <= to) seen.push(i);
    }
    const every = Math.max(1, Math.ceil(seen.length / MARKS));
    const marks = Object.fromEntries(data.marks.map((kind) => [kind, { x: [], y: [], text: [] }]));
    seen.forEach((i, place) => {
      const kind = data.marks[trades.mark[i]];
      if (place % every && !KEPT.has(kind)) return;
      const into = marks[kind];
      const quantity = trades.quantity[i];
      into.x.push(trades.time[i]);
      into.y.push(trades.price[i]);
      into.text.push(
        `<b>${kind}</b><br>${quantity > 0 ? "buy" : "sell"} ${number(Math.abs(quantity), 8)} at ` +
          `${price(trades.price[i])}<br>${when(trades.time[i])}`,
      );
    });
    let note = `${number(seen.length, 0)} fills in view`;
    if (every > 1) note += `, one in ${every} drawn: zoom in for all`;
    if (total > trades.time.length) note += ` (one in ${Math.ceil(total / trades.time.length)} is in this file)`;
    document.getElementById("fills").textContent = note;
    return marks;
  };

  const spread = (values, keys) => {
    let low = Infinity;
    let high = -Infinity;
    for (const key of keys) {
      for (const value of values[key]) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    return [low - room, high + room];
  };

  const sizes = {};
  const fill = (from, to) => {
    const [first, last] = view(from, to);
    const marks = marksIn(from, to);
    const drawn = Object.values(marks).reduce((sum, kind) => sum + kind.x.length, 0);
    const crowding = drawn <= 150 ? 1 : drawn <= 500 ? 0.8 : 0.6;
    for (const trace of figures.run.data) {
      const [kind, name] = trace.meta.split(":");
      if (kind === "candles") {
        Object.assign(trace, candlesIn(first, last));
        figures.run.layout.yaxis.range = spread(trace, ["low", "high"]);
      } else if (kind === "mark") {
        Object.assign(trace, marks[name], { visible: marks[name].x.length > 0 });
        sizes[name] ??= trace.marker.size;
        trace.marker.size = KEPT.has(name) ? sizes[name] : sizes[name] * crowding;
      } else if (kind === "exposure") Object.assign(trace, lineIn(exposure[symbol], first, last));
      else Object.assign(trace, lineIn(lines[kind][name], first, last));
    }
  };

  // --- figures -------------------------------------------------------------------------------------------

  const chart = document.getElementById("run");
  const full = [start, start + count * step];
  const config = { responsive: true, displayModeBar: false };
  let range = full;
  let drawing = false;

  const draw = async () => {
    drawing = true;
    fill(...range);
    Object.assign(figures.run.layout.xaxis, { range, autorange: false });
    await Plotly.react(chart, figures.run.data, figures.run.layout, config);
    drawing = false;
  };

  // What plotly calls a date may be a number or a text in UTC.
  const milliseconds = (value) =>
    typeof value === "number" ? value : Date.parse(`${value.replace(" ", "T")}${/Z$/.test(value) ? "" : "Z"}`);

  const zoomed = (event) => {
    if (drawing) return;
    if (event["xaxis.autorange"]) range = full;
    else if ("xaxis.range[0]" in event)
      range = [milliseconds(event["xaxis.range[0]"]), milliseconds(event["xaxis.range[1]"])];
    else if ("xaxis.range" in event) range = event["xaxis.range"].map(milliseconds);
    else return;
    draw();
  };

  for (const trace of figures.returns.data) {
    const name = trace.meta.split(":")[1];
    trace.x = data.returns.centres;
    trace.y = data.returns.shares[name];
    trace.width = data.returns.width * 0.94;
  }

  const buttons = document.getElementById("ranges");
  const day = 86400000;
  for (const [label, days] of [["1 week", 7], ["1 month", 30], ["3 months", 91], ["1 year", 365], ["all", 0]]) {
    if (days && days * day >= full[1] - full[0]) continue;
    const button = document.createElement("button");
    button.textContent = label;
    button.addEventListener("click", () => {
      const middle = (range[0] + range[1]) / 2;
      const begin = Math.min(Math.max(full[0], middle - (days * day) / 2), full[1] - days * day);
      range = days ? [begin, begin + days * day] : full;
      draw();
    });
    buttons.append(button);
  }

  const choice = document.getElementById("symbol");
  for (const name of data.symbols) choice.append(new Option(name, name));
  choice.hidden = data.symbols.length < 2;
  choice.addEventListener("change", () => {
    symbol = choice.value;
    draw();
  });

  // --- table of trades -----------------------------------------------------------------------------------

  const PAGE = 100;
  const { rows, total: trips } = data.trips;
  const columns = [
    ["symbol", (v) => v],
    ["side", (v) => v],
    ["opened, UTC", when],
    ["closed, UTC", when],
    ["quantity", (v) => number(v, 8)],
    ["entry", price],
    ["exit", price],
    ["PnL after fees", (v) => fixed(v, 2)],
    ["PnL, %", (v) => fixed(v, 2)],
    ["fees", (v) => fixed(v, 2)],
    ["closed by", (v) => v],
  ];
  const body = document.querySelector("#trips tbody");
  const head = document.querySelector("#trips thead tr");
  let sorted = { column: 2, down: false };
  let page = 0;

  const compare = (a, b) => {
    if (a === b) return 0;
    if (a === null) return 1;
    if (b === null) return -1;
    return a < b ? -1 : 1;
  };
  const showTrips = () => {
    const sign = sorted.down ? -1 : 1;
    rows.sort((a, b) => sign * compare(a[sorted.column], b[sorted.column]));
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    page = Math.min(Math.max(0, page), pages - 1);
    body.replaceChildren(
      ...rows.slice(page * PAGE, (page + 1) * PAGE).map((row) => {
        const line = document.createElement("tr");
        row.forEach((value, i) => {
          const cell = document.createElement("td");
          cell.textContent = columns[i][1](value);
          if (i >= 4 && i <= 9) cell.className = "number";
          if (i === 1) cell.className = value;
          if ((i === 7 || i === 8) && value !== 0) cell.className = value > 0 ? "number gain" : "number loss";
          line.append(cell);
        });
        return line;
      }),
    );
    [...head.children].forEach((cell, i) => {
      cell.setAttribute("aria-sort", i !== sorted.column ? "none" : sorted.down ? "descending" : "ascending");
    });
    let note = `${number(rows.length, 0)} rows`;
    if (trips > rows.length) note += `, the last of ${number(trips, 0)}`;
    document.getElementById("rows").textContent = `${note}; page ${page + 1} of ${pages}`;
  };
  columns.forEach(([label], i) => {
    const cell = document.createElement("th");
    const button = document.createElement("button");
    button.textContent = label;
    button.addEventListener("click", () => {
      sorted = { column: i, down: sorted.column === i ? !sorted.down : i >= 7 && i <= 9 };
      page = 0;
      showTrips();
    });
    if (i >= 4 && i <= 9) cell.className = "number";
    cell.append(button);
    head.append(cell);
  });
  for (const [id, by] of [["earlier", -1], ["later", 1]]) {
    document.getElementById(id).addEventListener("click", () => {
      page += by;
      showTrips();
    });
  }
  showTrips();

  const ready = async () => {
    await draw();
    await Plotly.newPlot("returns", figures.returns.data, figures.returns.layout, {
      responsive: true,
      displayModeBar: false,
    });
    chart.on("plotly_relayout", zoomed);
    document.body.dataset.ready = "true";
  };
  ready();
})();
