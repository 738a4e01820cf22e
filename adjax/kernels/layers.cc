// The layers of a streaming convolutional network on a CPU, float32. A convolution:
//
//   y[b, t, :] = bias + residual[b, t, :] + sum over taps k of w[k]^T in[b, t * stride + k * dilation, :]
//
// where `in` is the context of earlier frames followed by activation(x), or by x / rms(x) times a scale of each channel,
// and the last frames of `in` are the next context. The convolution is direct: sixteen outputs of up to six frames stay
// in registers while the loop runs over taps and input channels, so every weight that is loaded serves six frames.
// Weights come packed as [ceil(out / 16), taps, in, 16], padded with zeros, all layers' in one array. Each sum runs in
// one order, whatever the chunk and the batch.
//
// A residual unit is two layers in one call: x + v^T activation(y), v a pointwise kernel of a second layer, called tail.
//
// Work is cut into tasks that threads of XLA's pool claim one by one from a counter. The caller claims too, so it never
// waits for a thread that has not started.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int64_t kLanes = 16;             // outputs of a block of weights
constexpr int64_t kRows = 6;               // frames in registers
constexpr int64_t kAhead = 64;             // inputs whose weights are fetched before they are needed
constexpr double kWorthSharing = 2e6;      // operations; fewer are done before another thread wakes up
constexpr int64_t kUnitFrames = 96;        // a residual unit of fewer is cut in outputs too, one of more in time alone
constexpr float kEpsilon = 1e-6f;          // added to a mean square, as adjax.nn.conv does
constexpr int64_t kStagedAtOnce = 1 << 13; // input values of a task
typedef float Vector __attribute__((vector_size(32), aligned(4)));

inline Vector Load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void Store(float* to, Vector v) { *reinterpret_cast<Vector*>(to) = v; }

enum Activation : int64_t { kNone = 0, kElu = 1, kLeaky = 2 };

// exp(x) - 1 for x <= 0 by 2^n * polynomial(r), x = n ln 2 + r (Cephes' coefficients); error below 2e-7.
inline float ExpMinusOne(float x) {
  x = std::max(x, -87.0f);
  const float n = __builtin_floorf(x * 1.44269504f + 0.5f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float fraction = p * r * r + r + 1.0f;
  const int32_t exponent = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &exponent, sizeof power);
  return fraction * power - 1.0f;
}

// Not inlined: there `restrict` is forgotten, and with it the vector instructions.
__attribute__((noinline)) void Activate(const float* __restrict x, float* __restrict y, int64_t n, int64_t activation,
                                        float slope) {
  if (activation == kElu) {
    for (int64_t i = 0; i < n; i++) {
      const float negative = ExpMinusOne(std::min(x[i], 0.0f));
      y[i] = x[i] > 0.0f ? x[i] : (x[i] == x[i] ? negative : x[i]);
    }
  } else if (activation == kLeaky) {
    for (int64_t i = 0; i < n; i++) y[i] = x[i] >= 0.0f ? x[i] : x[i] * slope;
  } else {
    std::memcpy(y, x, n * sizeof(float));
  }
}

// y = x / rms(x) * scale of each of `rows` frames.
__attribute__((noinline)) void Normalize(const float* __restrict x, float* __restrict y, int64_t rows, int64_t channels,
                                         const float* __restrict scale) {
  for (int64_t t = 0; t < rows; t++, x += channels, y += channels) {
    Vector squares = {0};
    int64_t i = 0;
    for (; i + 8 <= channels; i += 8) squares += Load(x + i) * Load(x + i);
    float sum = 0;
    for (int k = 0; k < 8; k++) sum += squares[k];
    for (; i < channels; i++) sum += x[i] * x[i];
    const float factor = 1.0f / std::sqrt(sum / channels + kEpsilon);
    for (i = 0; i < channels; i++) y[i] = x[i] * factor * scale[i];
  }
}

struct Layer {
  const float *x, *context, *w, *bias, *residual, *scale;
  float *y, *staged;
  int64_t batch, time, earlier, in, frames, out, taps, stride, dilation, activation;
  float slope;
  float* acted;  // where activation(y) goes too, if anywhere

  int64_t staged_size() const { return (earlier + time) * in; }

  template <int R>
  inline __attribute__((always_inline)) void Tile(const float* from, const float* weights, const float* start,
                                                  const float* added, float* to, int64_t lanes) const {
    Vector sum[R][2];
    for (int r = 0; r < R; r++) {
      sum[r][0] = Load(start);
      sum[r][1] = Load(start + 8);
    }
    if (added != nullptr) {
      for (int r = 0; r < R; r++) {
        float row[kLanes] = {0};
        std::memcpy(row, added + r * out, (lanes == kLanes ? kLanes : lanes) * sizeof(float));
        sum[r][0] += Load(row);
        sum[r][1] += Load(row + 8);
      }
    }
    const int64_t row = stride * in;
    for (int64_t k = 0; k < taps; k++) {
      const float* tap = from + k * dilation * in;
      for (int64_t c = 0; c < in; c++, weights += kLanes) {
        __builtin_prefetch(weights + kAhead * kLanes);  // at few frames a weight, memory is what takes the time
        const Vector low = Load(weights), high = Load(weights + 8);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          const float value = tap[r * row + c];
          sum[r][0] += value * low;
          sum[r][1] += value * high;
        }
      }
    }
    for (int r = 0; r < R; r++) {
      if (lanes == kLanes) {
        Store(to + r * out, sum[r][0]);
        Store(to + r * out + 8, sum[r][1]);
      } else {
        float row[kLanes];
        Store(row, sum[r][0]);
        Store(row + 8, sum[r][1]);
        std::memcpy(to + r * out, row, lanes * sizeof(float));
      }
    }
  }

  // Frames [first, last) of one block of outputs of one item of the batch.
  void Convolve(int64_t item, int64_t block, int64_t first, int64_t last) const {
    const int64_t lanes = std::min(kLanes, out - block * kLanes);
    float start[kLanes] = {0};
    if (bias != nullptr) std::memcpy(start, bias + block * kLanes, lanes * sizeof(float));
    const float* weights = w + block * taps * in * kLanes;
    const float* input = staged + item * staged_size();
    for (int64_t t = first; t < last;) {
      const int64_t at = (item * frames + t) * out + block * kLanes, left = last - t;
      const float *from = input + t * stride * in, *added = residual == nullptr ? nullptr : residual + at;
      // Ten frames as 5 + 5 rather than 6 + 4.
      const int64_t rows = left >= 2 * kRows || left <= kRows ? std::min(kRows, left) : (left + 1) / 2;
      switch (rows) {
        case 6: Tile<6>(from, weights, start, added, y + at, lanes); break;
        case 5: Tile<5>(from, weights, start, added, y + at, lanes); break;
        case 4: Tile<4>(from, weights, start, added, y + at, lanes); break;
        case 3: Tile<3>(from, weights, start, added, y + at, lanes); break;
        case 2: Tile<2>(from, weights, start, added, y + at, lanes); break;
        default: Tile<1>(from, weights, start, added, y + at, lanes);
      }
      t += rows;
    }
  }

  // activation(y) of what Convolve gave for the same arguments.
  void ActivateOutput(int64_t item, int64_t block, int64_t first, int64_t last) const {
    for (int64_t t = first; t < last; t++) {
      const int64_t at = (item * frames + t) * out + block * kLanes;
      Activate(y + at, acted + at, std::min(kLanes, out - block * kLanes), activation, slope);
    }
  }

  // A part of the activated input, behind the context.
  void Stage(int64_t item, int64_t first, int64_t last) const {
    float* to = staged + item * staged_size();
    if (first == 0) std::memcpy(to, context + item * earlier * in, earlier * in * sizeof(float));
    const float* from = x + item * time * in + first;
    to += earlier * in + first;
    if (scale != nullptr) {
      Normalize(from, to, (last - first) / in, in, scale);
    } else {
      Activate(from, to, last - first, activation, slope);
    }
  }
};

// The tasks of a layer: all staging, then all convolution, then that of the tail; or, with `unit`, both for a span of
// frames after the other, so that what is between them stays in a core's cache.
struct Work {
  Layer layer, tail;
  bool unit = false;
  int64_t part, parts, spans, span, blocks, stages, tasks, tails;
  std::atomic<int64_t> next{0}, staged{0}, done{0};

  void Run() {
    for (int64_t i; (i = next.fetch_add(1)) < stages + tasks + tails;) {
      if (i < stages) {
        const int64_t size = layer.time * layer.in, first = i % parts * part;
        layer.Stage(i / parts, first, std::min(size, first + part));
        staged.fetch_add(1, std::memory_order_release);
        continue;
      }
      while (staged.load(std::memory_order_acquire) < stages) std::this_thread::yield();
      if (unit) {
        const int64_t item = (i - stages) / spans, first = (i - stages) % spans * span;
        const int64_t end = std::min(layer.frames, first + span), at = (item * layer.frames + first) * layer.out;
        for (int64_t b = 0; b < blocks; b++) layer.Convolve(item, b, first, end);
        Activate(layer.y + at, layer.acted + at, (end - first) * layer.out, layer.activation, layer.slope);
        for (int64_t b = 0; b < blocks; b++) tail.Convolve(item, b, first, end);
      } else {
        const bool is_tail = i >= stages + tasks;
        const int64_t task = i - stages - (is_tail ? tasks : 0), item = task / blocks / spans, b = task % blocks;
        const int64_t first = task / blocks % spans * span, end = std::min(layer.frames, first + span);
        while (is_tail && done.load(std::memory_order_acquire) < tasks) std::this_thread::yield();
        (is_tail ? tail : layer).Convolve(item, b, first, end);
        if (tails > 0 && !is_tail) layer.ActivateOutput(item, b, first, end);
      }
      done.fetch_add(1, std::memory_order_release);
    }
  }
};

// The weights start at `weights_at` of `model`; biases, scale and tail at theirs, unless that is negative.
ffi::Error Conv(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> context,
                ffi::Buffer<ffi::F32> model, ffi::Buffer<ffi::F32> residual, ffi::ResultBuffer<ffi::F32> y,
                ffi::ResultBuffer<ffi::F32> next_context, int64_t weights_at, int64_t bias_at, int64_t scale_at,
                int64_t tail_at, int64_t taps, int64_t stride, int64_t dilation, int64_t activation, float slope) {
  const auto xs = x.dimensions(), cs = context.dimensions(), ys = y->dimensions();
  if (xs.size() != 3 || cs.size() != 3 || ys.size() != 3 || taps < 1 || stride < 1 || dilation < 1) {
    return ffi::Error::InvalidArgument("x, context and y must have 3 dimensions");
  }
  auto work = std::make_shared<Work>();
  Layer& s = work->layer;
  const int64_t added = residual.element_count(), all = model.element_count();
  s = {x.typed_data(), context.typed_data(), model.typed_data() + weights_at,
       bias_at < 0 ? nullptr : model.typed_data() + bias_at, added ? residual.typed_data() : nullptr,
       scale_at < 0 ? nullptr : model.typed_data() + scale_at, y->typed_data(), nullptr, xs[0], xs[1], cs[1], xs[2],
       ys[1], ys[2], taps, stride, dilation, activation, slope, nullptr};
  const int64_t blocks = (s.out + kLanes - 1) / kLanes;
  const int64_t reach = s.frames > 0 ? (s.frames - 1) * stride + (s.taps - 1) * dilation + 1 : 0;
  if (weights_at < 0 || weights_at > all - blocks * taps * s.in * kLanes || bias_at > all - s.out ||
      scale_at > all - s.in || ys[0] != s.batch || cs[0] != s.batch || cs[2] != s.in ||
      (added && added != y->element_count()) ||
      (tail_at >= 0 && (tail_at > all - blocks * s.out * kLanes || s.out != s.in || s.frames != s.time || added)) ||
      next_context->element_count() != context.element_count() || reach > s.earlier + s.time) {
    return ffi::Error::InvalidArgument("the shapes of a convolution do not fit each other");
  }
  if (s.earlier == 0 && activation == kNone && s.scale == nullptr) {
    s.staged = const_cast<float*>(s.x);  // only read
  } else {
    thread_local std::vector<float> buffer;  // kept: fresh memory costs as much as the arithmetic
    if (buffer.size() < static_cast<size_t>(s.batch * s.staged_size())) buffer.resize(s.batch * s.staged_size());
    s.staged = buffer.data();
    work->part = std::max<int64_t>(1, kStagedAtOnce / s.in) * s.in;  // whole frames
    work->parts = std::max<int64_t>(1, (s.time * s.in + work->part - 1) / work->part);
    work->stages = s.batch * work->parts;
  }
  if (tail_at >= 0) {
    thread_local std::vector<float> between;
    const size_t size = y->element_count();
    if (between.size() < 2 * size) between.resize(2 * size);
    s.y = between.data();
    s.acted = s.y + size;
    work->tail = {nullptr, nullptr, model.typed_data() + tail_at, nullptr, s.x, nullptr, y->typed_data(), s.acted,
                  s.batch, s.frames, 0, s.out, s.frames, s.out, 1, 1, 1, kNone, 0, nullptr};
    work->unit = s.frames >= kUnitFrames;
  }
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  work->blocks = blocks;
  work->span = s.frames;
  const int64_t apart = work->unit ? s.batch : s.batch * blocks;  // tasks if time is not cut
  if (apart < 4 * threads) {
    const int64_t cuts = (4 * threads + apart - 1) / apart;
    work->span = (s.frames / cuts + kRows - 1) / kRows * kRows;
  }
  work->span = std::max(work->unit ? std::min(work->span, kUnitFrames) : work->span, kRows);
  work->spans = (s.frames + work->span - 1) / work->span;
  work->tasks = apart * work->spans;
  work->tails = tail_at < 0 || work->unit ? 0 : work->tasks;
  const double operations = 2.0 * s.batch * s.frames * s.out * (s.taps * s.in + (tail_at < 0 ? 0 : s.out));
  const int64_t helpers = operations < kWorthSharing ? 0 : std::min(threads, work->tasks) - 1;
  for (int64_t i = 0; i < helpers; i++) pool.Schedule([work] { work->Run(); });
  work->Run();
  while (work->done.load(std::memory_order_acquire) < work->tasks + work->tails) std::this_thread::yield();
  for (int64_t b = 0; b < s.batch; b++) {
    std::memcpy(next_context->typed_data() + b * s.earlier * s.in, s.staged + b * s.staged_size() + s.time * s.in,
                s.earlier * s.in * sizeof(float));
  }
  return ffi::Error::Success();
}

// Residual vector quantization: codes[b, f, :] of x[b, f, :], stage by stage. Codebooks come packed as
// [stages, size / 16, dim, 16], with the squared norm of every code, infinite where the last block is padded.

constexpr int64_t kFrames = 4;  // frames that share a code vector in registers
typedef int32_t Integers __attribute__((vector_size(32)));
typedef int64_t Words __attribute__((vector_size(32)));

// |r|^2 - 2 r.c + |c|^2 of F residuals r and the 16 codes c of a block.
template <int F>
inline __attribute__((always_inline)) void Distances(const float* residuals, const float* squares, const float* codes,
                                                     const float* norms, int64_t dim, Vector (*distance)[2]) {
  Vector dot[F][2] = {};
  for (int64_t d = 0; d < dim; d++, codes += kLanes) {
    const Vector low = Load(codes), high = Load(codes + 8);
#pragma GCC unroll 4
    for (int f = 0; f < F; f++) {
      dot[f][0] += residuals[f * dim + d] * low;
      dot[f][1] += residuals[f * dim + d] * high;
    }
  }
  for (int f = 0; f < F; f++) {
    for (int half = 0; half < 2; half++) {
      distance[f][half] = (squares[f] - 2.0f * dot[f][half]) + Load(norms + 8 * half);
    }
  }
}

inline float Square(const float* x, int64_t dim) {
  float sum = 0;
  for (int64_t d = 0; d < dim; d++) sum += x[d] * x[d];
  return sum;
}

template <int F>
inline __attribute__((always_inline)) void Search(const float* residuals, const float* codes, const float* norms,
                                                  int64_t blocks, int64_t dim, int32_t* best) {
  float squares[F];
  Vector least[F][2], distance[F][2];
  Integers where[F][2];
  for (int f = 0; f < F; f++) {
    squares[f] = Square(residuals + f * dim, dim);
    least[f][0] = least[f][1] = Vector{} + std::numeric_limits<float>::infinity();
    where[f][0] = where[f][1] = Integers{};
  }
  for (int64_t block = 0; block < blocks; block++) {
    Distances<F>(residuals, squares, codes + block * dim * kLanes, norms + block * kLanes, dim, distance);
    for (int f = 0; f < F; f++) {
      for (int half = 0; half < 2; half++) {
        const Integers closer = distance[f][half] < least[f][half];
        least[f][half] = closer ? distance[f][half] : least[f][half];
        where[f][half] = closer ? Integers{} + static_cast<int32_t>(block) : where[f][half];
      }
    }
  }
  for (int f = 0; f < F; f++) {
    float distance = std::numeric_limits<float>::infinity();
    int32_t code = 0;
    for (int lane = 0; lane < kLanes; lane++) {
      const float candidate = least[f][lane / 8][lane % 8];
      const int32_t index = where[f][lane / 8][lane % 8] * static_cast<int32_t>(kLanes) + lane;
      if (candidate < distance || (candidate == distance && index < code)) {  // the first of equals wins
        distance = candidate;
        code = index;
      }
    }
    best[f] = code;
  }
}

// Squared distances [F, blocks * kLanes] of residuals to all codes.
template <int F>
inline __attribute__((always_inline)) void Measure(const float* residuals, const float* codes, const float* norms,
                                                   int64_t blocks, int64_t dim, float* distances) {
  float squares[F];
  Vector distance[F][2];
  for (int f = 0; f < F; f++) squares[f] = Square(residuals + f * dim, dim);
  for (int64_t block = 0; block < blocks; block++) {
    Distances<F>(residuals, squares, codes + block * dim * kLanes, norms + block * kLanes, dim, distance);
    for (int f = 0; f < F; f++) {
      Store(distances + (f * blocks + block) * kLanes, distance[f][0]);
      Store(distances + (f * blocks + block) * kLanes + 8, distance[f][1]);
    }
  }
}

struct Choice {
  float distance;
  int64_t index;  // hypothesis * codes + code
};

// The `most` smallest of the distances, ascending; of equals the first wins.
void Smallest(const std::vector<float>& distances, int64_t most, std::vector<Choice>& chosen) {
  chosen.clear();
  float limit = std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < static_cast<int64_t>(distances.size()); i += 8) {
    const Words closer = reinterpret_cast<Words>(Load(distances.data() + i) < limit);
    if (!(closer[0] | closer[1] | closer[2] | closer[3])) continue;
    for (int64_t k = i; k < i + 8; k++) {
      const float distance = distances[k];
      if (!(distance < limit)) continue;
      auto at = chosen.end();
      while (at != chosen.begin() && distance < (at - 1)->distance) at--;
      chosen.insert(at, {distance, k});
      if (static_cast<int64_t>(chosen.size()) > most) chosen.pop_back();
      if (static_cast<int64_t>(chosen.size()) == most) limit = chosen.back().distance;
    }
  }
}

// Codes of one frame: after each stage the `beams` sums of code vectors nearest to x stay.
void SearchBeam(const float* x, const float* packed, const float* norms, int64_t stages, int64_t blocks, int64_t dim,
                int64_t beams, int32_t* codes) {
  thread_local std::vector<float> residuals, next, distances;
  thread_local std::vector<int32_t> paths, longer;  // [hypotheses, stages]
  thread_local std::vector<Choice> chosen;
  const int64_t size = blocks * kLanes;
  residuals.assign(x, x + dim);
  paths.assign(stages, 0);
  for (int64_t stage = 0; stage < stages; stage++, packed += size * dim, norms += size) {
    const int64_t hypotheses = residuals.size() / dim;
    distances.resize(hypotheses * size);
    for (int64_t h = 0; h < hypotheses; h += kFrames) {
      const float* rows = residuals.data() + h * dim;
      float* out = distances.data() + h * size;
      switch (std::min(kFrames, hypotheses - h)) {
        case 4: Measure<4>(rows, packed, norms, blocks, dim, out); break;
        case 3: Measure<3>(rows, packed, norms, blocks, dim, out); break;
        case 2: Measure<2>(rows, packed, norms, blocks, dim, out); break;
        default: Measure<1>(rows, packed, norms, blocks, dim, out);
      }
    }
    Smallest(distances, beams, chosen);
    next.resize(chosen.size() * dim);
    longer.resize(chosen.size() * stages);
    for (size_t i = 0; i < chosen.size(); i++) {
      const int64_t parent = chosen[i].index / size, index = chosen[i].index % size;
      const float* code = packed + index / kLanes * dim * kLanes + index % kLanes;
      for (int64_t d = 0; d < dim; d++) next[i * dim + d] = residuals[parent * dim + d] - code[d * kLanes];
      std::copy_n(paths.data() + parent * stages, stage, longer.data() + i * stages);
      longer[i * stages + stage] = static_cast<int32_t>(index);
    }
    residuals.swap(next);
    paths.swap(longer);
  }
  std::copy_n(paths.data(), stages, codes);  // the nearest comes first
}

// Codes of one stream's frames, each of what it differs by from factors * the frame before as decoded, `latents`.
void SearchDifferences(const float* x, const float* packed, const float* norms, const float* factors, int64_t frames,
                       int64_t stages, int64_t blocks, int64_t dim, int64_t beams, float* latents, int32_t* codes) {
  thread_local std::vector<float> difference, sum;
  difference.resize(dim);
  for (int64_t f = 0; f < frames; f++, x += dim, codes += stages) {
    for (int64_t d = 0; d < dim; d++) difference[d] = x[d] - factors[d] * latents[d];
    SearchBeam(difference.data(), packed, norms, stages, blocks, dim, beams, codes);
    sum.assign(dim, 0);
    for (int64_t stage = 0; stage < stages; stage++) {
      const float* code = packed + (stage * blocks + codes[stage] / kLanes) * dim * kLanes + codes[stage] % kLanes;
      for (int64_t d = 0; d < dim; d++) sum[d] += code[d * kLanes];
    }
    for (int64_t d = 0; d < dim; d++) latents[d] = factors[d] * latents[d] + sum[d];
  }
}

ffi::Error Quantize(ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> packed, ffi::Buffer<ffi::F32> norms,
                    ffi::Buffer<ffi::F32> earlier, ffi::Buffer<ffi::F32> factors, ffi::ResultBuffer<ffi::S32> y,
                    ffi::ResultBuffer<ffi::F32> later, int64_t beams) {
  const auto xs = x.dimensions(), ps = packed.dimensions(), ns = norms.dimensions(), ys = y->dimensions();
  if (xs.size() != 3 || ps.size() != 4 || ns.size() != 2 || ys.size() != 3 || ps[2] != xs[2] || ps[3] != kLanes ||
      ns[0] != ps[0] || ns[1] != ps[1] * kLanes || ys[0] != xs[0] || ys[1] != xs[1] || ys[2] < 1 ||
      ys[2] > ps[0] || beams < 1 ||
      earlier.element_count() != xs[0] * factors.element_count() ||
      later->element_count() != earlier.element_count() ||
      (factors.element_count() != 0 && static_cast<int64_t>(factors.element_count()) != xs[2])) {
    return ffi::Error::InvalidArgument("the shapes of a quantizer do not fit each other");
  }
  const int64_t frames = xs[0] * xs[1], dim = xs[2], stages = ys[2], blocks = ps[1];
  if (factors.element_count() > 0) {
    std::copy_n(earlier.typed_data(), xs[0] * dim, later->typed_data());
    for (int64_t b = 0; b < xs[0]; b++) {
      SearchDifferences(x.typed_data() + b * xs[1] * dim, packed.typed_data(), norms.typed_data(),
                        factors.typed_data(), xs[1], stages, blocks, dim, beams, later->typed_data() + b * dim,
                        y->typed_data() + b * xs[1] * stages);
    }
    return ffi::Error::Success();
  }
  for (int64_t f = 0; beams > 1 && f < frames; f++) {
    SearchBeam(x.typed_data() + f * dim, packed.typed_data(), norms.typed_data(), stages, blocks, dim, beams,
               y->typed_data() + f * stages);
  }
  if (beams > 1) return ffi::Error::Success();
  thread_local std::vector<float> residuals;
  residuals.assign(x.typed_data(), x.typed_data() + frames * dim);
  for (int64_t stage = 0; stage < stages; stage++) {
    const float* codes = packed.typed_data() + stage * blocks * dim * kLanes;
    const float* squares = norms.typed_data() + stage * blocks * kLanes;
    for (int64_t f = 0; f < frames; f += kFrames) {
      float* rows = residuals.data() + f * dim;
      const int64_t count = std::min(kFrames, frames - f);
      int32_t best[kFrames];
      switch (count) {
        case 4: Search<4>(rows, codes, squares, blocks, dim, best); break;
        case 3: Search<3>(rows, codes, squares, blocks, dim, best); break;
        case 2: Search<2>(rows, codes, squares, blocks, dim, best); break;
        default: Search<1>(rows, codes, squares, blocks, dim, best);
      }
      for (int64_t k = 0; k < count; k++) {
        y->typed_data()[(f + k) * stages + stage] = best[k];
        const float* code = codes + best[k] / kLanes * dim * kLanes + best[k] % kLanes;
        for (int64_t d = 0; d < dim; d++) {
          float& r = rows[k * dim + d];
          const float output = r + (code[d * kLanes] - r);  // rounded as the straight-through output is
          r -= output;
        }
      }
    }
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(AdjaxConv, Conv,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("weights_at")
                                  .Attr<int64_t>("bias_at")
                                  .Attr<int64_t>("scale_at")
                                  .Attr<int64_t>("tail_at")
                                  .Attr<int64_t>("taps")
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("dilation")
                                  .Attr<int64_t>("activation")
                                  .Attr<float>("slope"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(AdjaxQuantize, Quantize,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("beams"));
