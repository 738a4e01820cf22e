// Runs on the browser's audio thread: collects the microphone's samples to chunks, and plays what came back.
"use strict";

const FADE_S = 0.005; // over which a gap's two edges are joined
const REPORT_S = 0.1;
const MOST_CHUNKS = 4; // that may wait to be played, besides the lead

class CodecNode extends AudioWorkletProcessor {
  constructor() {
    super();
    this.capture = null; // {settings, samples}: how long chunks are, and the number of the settings that say so
    this.collected = new Float32Array(0);
    this.fill = 0;
    this.lead = 0;
    this.blocks = []; // what is to be played; the first from `offset` on
    this.offset = 0;
    this.held = 0;
    this.running = false;
    this.leadLeft = 0;
    this.starved = false;
    this.gap = false;
    this.last = 0;
    this.step = 0; // at a gap: the height that falls to 0
    this.stepLeft = 0;
    this.fade = Math.max(1, Math.round(FADE_S * sampleRate));
    this.overruns = this.underruns = this.silent = 0;
    this.peakIn = this.peakOut = 0;
    this.reportIn = 0;
    this.ended = false;
    this.port.onmessage = ({ data }) => this.receive(data);
  }

  receive(data) {
    if (data.type === "capture") this.capture = data;
    else if (data.type === "lead") this.lead = Math.round(data.seconds * sampleRate);
    else if (data.type === "play") this.push(data.samples);
    else if (data.type === "end") this.ended = true;
  }

  push(samples) {
    if (this.held && this.held + samples.length > this.lead + MOST_CHUNKS * samples.length) {
      while (this.blocks.length && this.held > this.lead) {
        this.held -= this.blocks.shift().length - this.offset;
        this.offset = 0;
        this.overruns += 1;
      }
      this.gap = true;
    }
    if (!this.running) {
      this.running = true;
      this.leadLeft = this.lead;
    }
    this.port.postMessage({ type: "held", samples: this.held + this.leadLeft });
    this.blocks.push(samples);
    this.held += samples.length;
  }

  // The next sample to be played, or null where there is none.
  next() {
    if (this.leadLeft > 0) {
      this.leadLeft -= 1;
      return 0;
    }
    if (!this.held) return null;
    const sample = this.blocks[0][this.offset];
    this.offset += 1;
    this.held -= 1;
    if (this.offset === this.blocks[0].length) {
      this.blocks.shift();
      this.offset = 0;
    }
    return sample;
  }

  play(out) {
    for (let i = 0; i < out.length; i += 1) {
      let sample = this.running ? this.next() : 0;
      let jump = this.gap && sample !== null;
      if (sample === null) {
        sample = 0;
        jump = !this.starved;
        this.underruns += jump ? 1 : 0;
        this.silent += 1;
        this.starved = true;
      } else if (this.starved) {
        this.starved = false;
        jump = true;
      }
      if (jump) {
        this.step = this.last - sample;
        this.stepLeft = this.fade;
        this.gap = false;
      }
      if (this.stepLeft) {
        sample += (this.step * this.stepLeft) / this.fade;
        this.stepLeft -= 1;
      }
      out[i] = this.last = sample;
      this.peakOut = Math.max(this.peakOut, Math.abs(sample));
    }
  }

  collect(input) {
    if (!this.capture) return;
    const size = this.capture.samples;
    if (this.collected.length < size + input.length) {
      const larger = new Float32Array(2 * (size + input.length));
      larger.set(this.collected.subarray(0, this.fill));
      this.collected = larger;
    }
    this.collected.set(input, this.fill);
    this.fill += input.length;
    while (this.fill >= size) {
      const samples = this.collected.slice(0, size);
      this.collected.copyWithin(0, size, this.fill);
      this.fill -= size;
      this.port.postMessage({ type: "chunk", settings: this.capture.settings, samples }, [samples.buffer]);
    }
  }

  process(inputs, outputs) {
    const out = outputs[0][0];
    const input = inputs[0][0] || new Float32Array(out.length);
    for (const sample of input) this.peakIn = Math.max(this.peakIn, Math.abs(sample));
    this.collect(input);
    this.play(out);
    this.reportIn -= out.length;
    if (this.reportIn <= 0) {
      this.reportIn = REPORT_S * sampleRate;
      this.port.postMessage({
        type: "report",
        peakIn: this.peakIn,
        peakOut: this.peakOut,
        overruns: this.overruns,
        underruns: this.underruns,
        silent: this.silent,
      });
      this.peakIn = this.peakOut = 0;
    }
    return !this.ended;
  }
}

registerProcessor("codec-node", CodecNode);
