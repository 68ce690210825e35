// The little that cannot be said in Python: how outlines are drawn and told, where the pointer is, keys and themes.
(function () {
  "use strict";
  const root = document.documentElement, kept = "digipath-theme";
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const remembered = (() => { try { return localStorage.getItem(kept); } catch { return null; } })();
  if (remembered === "dark" || remembered === "light") root.dataset.theme = remembered;

  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-opens]");
    if (opener) document.getElementById(opener.dataset.opens).showModal();
    if (event.target.closest("[data-theme-switch]")) {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem(kept, root.dataset.theme); } catch { /* not remembered, then */ }
    }
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest("input:not([type=range]), textarea, select, [contenteditable]")) return;
    const zoom = { "+": ".leaflet-control-zoom-in", "-": ".leaflet-control-zoom-out" }[event.key];
    const onMap = event.target.closest(".leaflet-container"); // there Leaflet has keys of its own
    const name = `[data-key="${CSS.escape(event.key)}"]`;
    const element = document.querySelector(zoom && !onMap ? `#map ${zoom}` : name);
    if (!element || element.disabled || !element.getClientRects().length) return;
    event.preventDefault();
    if (element.control) element.control.focus(); // a label: go to what it names
    else element.click();
  });

  new MutationObserver(() => { // each page has a title of its own
    const heading = document.querySelector("#page h1");
    const title = heading ? `${heading.textContent} – digipath` : "digipath";
    if (document.title !== title) document.title = title;
  }).observe(document.body, { childList: true, subtree: true });

  const shape = (feature, context) => {
    const look = context.hideout, chosen = look.chosen && look.chosen === feature.properties.subject;
    if (!look.shown && !chosen) return { stroke: false, fill: false };
    return {
      color: feature.properties.color, opacity: chosen ? 1 : look.opacity, weight: chosen ? 4 : 1.5,
      dashArray: feature.properties.dash, fillOpacity: chosen ? 0.12 : 0.04 * look.opacity,
    };
  };

  const tell = (feature, layer) => {
    layer.bindTooltip(() => {
      const text = document.createElement("div"); // as text: a name from a file is never markup
      text.className = "told-lines";
      text.textContent = feature.properties.told;
      return text;
    }, { sticky: true });
    // A tooltip makes outlines stops of the Tab key, thousands without a name: the keyboard has the tables for them.
    layer.on("add", () => layer.getElement?.()?.setAttribute("tabindex", "-1"));
  };

  const point = (event) => {
    const place = document.getElementById("measures-pointer");
    if (!place) return;
    const mpp = Number(place.dataset.mpp), x = event.latlng.lng, y = -event.latlng.lat;
    const um = (value) => (value * mpp).toFixed(1);
    const pixel = (value) => Math.floor(value).toLocaleString("en");
    place.textContent = event.type === "mouseout" ? "" : `x ${um(x)} µm, y ${um(y)} µm (pixel ${pixel(x)}, ${pixel(y)})`;
  };

  // A tile keeps its old picture until the new one is there: a mask that follows a slider does not flicker.
  const steady = (event) => {
    event.target.setUrl = function (url) {
      this._url = url;
      Object.values(this._tiles).forEach((tile) => { tile.el.src = this.getTileUrl(tile.coords); });
      return this;
    };
  };

  window.digipath = Object.assign(window.digipath || {}, { viewer: { shape, tell, point, steady } });
})();
