"use strict";
(() => {
  document.documentElement.classList.add("script");

  // The slider: shows the frames of one switch in every picture of the spectra.
  const slider = document.getElementById("switch");
  if (slider) {
    const output = document.getElementById("switch-name");
    const names = [...document.querySelectorAll("#switch-names li")].map((item) => item.textContent);
    const frames = [...document.querySelectorAll("[data-switch]")];
    const show = (task) => {
      for (const frame of frames) {
        frame.style.display = frame.dataset.switch === String(task) ? "" : "none";
      }
      const text = `to task ${task}: ${names[task] ?? ""}`;
      output.textContent = text;
      slider.setAttribute("aria-valuetext", text);
      document.documentElement.dataset.shown = task;
    };
    slider.addEventListener("input", () => {
      show(slider.value);
      history.replaceState(null, "", `#switch=${slider.value}`);
    });
    // A link may name the switch that it wants seen: report.html#switch=3
    const follow = () => {
      const found = location.hash.match(/^#switch=(\d+)$/);
      if (found) {
        slider.value = found[1];
        show(slider.value);
        document.getElementById("spectra").scrollIntoView();
      }
    };
    show(slider.value);
    window.addEventListener("hashchange", follow);
    follow();
  }

  // A picture as a file: what is seen of it, with its own size, as SVG.
  for (const link of document.querySelectorAll("a.svg")) {
    link.addEventListener("click", () => {
      const copy = link.closest("figure").querySelector("svg").cloneNode(true);
      const frames = copy.querySelectorAll("[data-switch]");
      for (const frame of frames) {
        if (frame.style.display === "none") frame.remove();
      }
      if (frames.length) {  // of all switches it shows one: it says which, as the PDF does
        copy.querySelector('[id$="-heading"] text').textContent += ` at the switch to task ${slider.value}`;
        link.download = `${link.closest("figure").id}-switch-${slider.value}.svg`;
      }
      const [width, height] = copy.dataset.size.split(" ");
      copy.setAttribute("width", `${width}pt`);
      copy.setAttribute("height", `${height}pt`);
      const file = new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
      link.href = URL.createObjectURL(file);
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    });
  }

  // Paper has no "open" button.
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
})();
