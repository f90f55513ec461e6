() => {
  // Contrast of every text with what is painted behind it (WCAG 2.2), colours composed from the root downwards.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const layer = (below, colour) => {
    canvas.fillStyle = `rgb(${below.join(" ")})`;
    canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const behind = (element) => {
    const chain = [];
    for (let e = element; e; e = e.parentElement) chain.unshift(getComputedStyle(e).backgroundColor);
    return chain.reduce(layer, [255, 255, 255]);
  };
  const luminance = (rgb) => rgb
    .map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("svg, option")) continue;
    const paper = behind(element);
    const ink = layer(paper, getComputedStyle(element).color);
    const [dark, bright] = [luminance(ink), luminance(paper)].sort((a, b) => a - b);
    found.push({ text: walker.currentNode.data.trim().slice(0, 40), contrast: (bright + 0.05) / (dark + 0.05) });
  }
  return found;
}
