// Nodes of networks on maps [N, H, W, C]: binary convolutions with thresholds before them and
// scales after them, real convolutions, pools.

#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "checks.hpp"
#include "conv.hpp"
#include "isas.hpp"
#include "map_rows.hpp"
#include "pool.hpp"

namespace rbsf {
namespace {

const MapKernels& map_kernels(const std::string& isa) {
    find(isa);  // throws if this machine lacks it
#if defined(__x86_64__) || defined(_M_X64)
    if (isa == "amx" || isa == "avx512") return with_avx512::table;
    if (isa == "avx2" && cpu_has_fma()) return with_avx2::table;
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
    if (isa == "neon") return with_neon::table;
#endif
    return with_scalar::table;
}

// Call work(image, first row, end) for all images, cut so that the threads get equally many jobs.
template <class Work>
void each_part(size_t images, size_t rows, size_t threads, const Work& work) {
    const size_t parts = std::min(rows, threads / std::gcd(threads, images));
    const auto job = [&](size_t number) {
        const size_t image = number / parts, part = number % parts;
        work(image, rows * part / parts, rows * (part + 1) / parts);
    };
    Pool::run(threads, images * parts, std::ref(job));
}

// Call work(image, row) for all rows of all images.
template <class Work>
void each_row(size_t images, size_t rows, size_t threads, const Work& work) {
    each_part(images, rows, threads, [&](size_t image, size_t first, size_t end) {
        for (size_t y = first; y < end; ++y) work(image, y);
    });
}

Shape shape_of(const py::array& array, int dimensions, const char* what) {
    require(array.ndim() == dimensions, what);
    Shape shape(array.shape(), array.shape() + dimensions);
    for (size_t n : shape) require(n >= 1 && n <= (size_t{1} << 40), what);
    return shape;
}

void check_threads(size_t threads) {
    require(threads >= 1 && threads <= 1024, "threads is out of range");
}

size_t window_count(size_t size, size_t kernel, size_t stride) {
    return size < kernel ? 0 : (size - kernel) / stride + 1;
}

// Bits of a map, uint8 [N, planes, H + 2 margin, W + 2 margin, bytes]; the margin is not written.
template <class T>
void pack_rows(const py::array& map, const py::array& limits, const py::array& flips,
               const py::array& bits, size_t margin, size_t threads,
               void (*pack)(const PackRow<T>&)) {
    const Shape in = shape_of(map, 4, "map is [N, H, W, C]"),
                out = shape_of(bits, 5, "bits have 5 dimensions");
    const size_t planes = out[1], bytes = out[4], rows = in[1], columns = in[2],
                 channels = in[3] / planes;
    require(in[3] % planes == 0 && bytes == (channels + 7) / 8 && margin <= 1024,
            "bits do not fit the map");
    const T* x = checked<T>(map, in, "map");
    uint8_t* to = checked<uint8_t>(
        bits, {in[0], planes, rows + 2 * margin, columns + 2 * margin, bytes}, "bits", true);
    const T* ends = checked<T>(limits, {in[3]}, "limits");
    const uint8_t* flip = checked<uint8_t>(flips, {planes, bytes}, "flips");
    check_threads(threads);
    py::gil_scoped_release release;
    each_row(in[0], rows, threads, [&](size_t image, size_t y) {
        for (size_t plane = 0; plane < planes; ++plane) {
            const size_t row = ((image * planes + plane) * out[2] + y + margin) * out[3] + margin;
            pack({x + ((image * rows + y) * columns) * in[3] + plane * channels, columns, in[3],
                  channels, ends + plane * channels, flip + plane * bytes, to + row * bytes,
                  bytes});
        }
    });
}

// Pack a map of float32: a bit is (x >= threshold) ^ flip.
void pack_map(const py::array& map, const py::array& thresholds, const py::array& flips,
              const py::array& bits, size_t margin, size_t threads, const std::string& isa) {
    pack_rows<float>(map, thresholds, flips, bits, margin, threads, map_kernels(isa).pack);
}

// Pack a map of whole numbers, int16: a bit is (x > limit) ^ flip.
void pack_whole(const py::array& map, const py::array& limits, const py::array& flips,
                const py::array& bits, size_t margin, size_t threads, const std::string& isa) {
    pack_rows<int16_t>(map, limits, flips, bits, margin, threads, map_kernels(isa).pack_whole);
}

// How many sums are computed and scaled at a time, so that they stay in the cache.
constexpr size_t BAND = size_t{1} << 15;

// Buffers of a thread: the sums of a term, the total before that term, and the input of whole sums.
struct Sums {
    std::vector<int32_t> term;
    std::vector<float> before;
    std::vector<int16_t> input;
    static Sums& mine() {
        thread_local Sums sums;
        return sums;
    }
};

// out = sum of scale[t] * convs[t](bits[t]) [* factors] + bias [+ other]. Maps are [N, H', W', O],
// factors [N, H', W'].
void conv_bits(const std::vector<std::shared_ptr<Conv>>& convs, const std::vector<py::array>& bits,
               const py::array& scale, const py::array& bias, const py::object& factors,
               const py::object& other, const py::array& out, size_t threads,
               const std::string& isa) {
    require(!convs.empty() && convs.size() == bits.size(), "give each convolution its bits");
    const Geometry& g = convs[0]->g;
    const Shape in = shape_of(bits[0], 5, "bits have 5 dimensions");
    const Shape map{in[0], g.output_size(in[2]), g.output_size(in[3]), g.outputs};
    require(map[1] >= 1 && map[2] >= 1, "a map is too small for the window");
    std::vector<const uint8_t*> data;
    for (size_t t = 0; t < convs.size(); ++t) {
        const Geometry& h = convs[t]->g;
        require(h.output == Output::sums && !h.pixels && h.kernel == g.kernel &&
                    h.stride == g.stride && h.groups == g.groups && h.bytes == g.bytes &&
                    h.outputs == g.outputs,
                "terms of one sum differ in their geometry, or give no sums");
        data.push_back(checked<uint8_t>(bits[t], {in[0], g.groups, in[2], in[3], g.bytes}, "bits"));
    }
    const size_t image_bytes = g.groups * in[2] * in[3] * g.bytes,
                 row_bytes = g.stride * in[3] * g.bytes;
    const float* factor = checked<float>(scale, {convs.size(), g.outputs}, "scale");
    const float* addend = checked<float>(bias, {g.outputs}, "bias");
    const float* pixel =
        factors.is_none() ? nullptr
                          : checked<float>(py::array(factors), {map[0], map[1], map[2]}, "factors");
    const float* added = other.is_none() ? nullptr : checked<float>(py::array(other), map, "other");
    float* result = checked<float>(out, map, "out", true);  // may be `other` itself
    const MapKernels& kernels = map_kernels(isa);
    const Kernels& counter = find(isa);
    check_threads(threads);
    const size_t row = map[2] * g.outputs, step = std::max<size_t>(1, BAND / row);
    py::gil_scoped_release release;
    each_part(map[0], map[1], threads, [&](size_t image, size_t first, size_t end) {
        int32_t* term = Scratch::grow(Sums::mine().term, std::min(step, end - first) * row);
        float* before = convs.size() > 1
                            ? Scratch::grow(Sums::mine().before, std::min(step, end - first) * row)
                            : nullptr;
        for (size_t y = first, to; y < end; y = to) {
            to = std::min(end, y + step);
            const size_t line = image * map[1] + y;
            for (size_t t = 0; t < convs.size(); ++t) {
                const bool last = t + 1 == convs.size();
                // The first row from this place is row y.
                const uint8_t* from = data[t] + image * image_bytes + y * row_bytes;
                convs[t]->rows(counter, from, in[2], in[3], term, 0, to - y);
                kernels.sum({term, (to - y) * map[2], g.outputs, factor + t * g.outputs,
                             t ? before : nullptr, last && pixel ? pixel + line * map[2] : nullptr,
                             last ? addend : nullptr, last && added ? added + line * row : nullptr,
                             last ? result + line * row : before});
            }
        }
    });
}

Rounding make_rounding(const py::array& scale, const py::array& bias, const py::array& slope,
                       float factor, float limit, size_t channels) {
    require(limit >= 0 && limit <= 32767, "limit is out of range");
    return {checked<float>(scale, {channels}, "scale"), checked<float>(bias, {channels}, "bias"),
            checked<float>(slope, {channels}, "slope"), factor, limit};
}

// out = round(factor * prelu(scale * map + bias)), clipped to +-limit. Maps are [N, H, W, C].
template <class In, class Out>
void round_rows(const py::array& map, const Rounding& rounding, const py::array& out,
                size_t threads, void (*row)(const RoundRow<In, Out>&)) {
    const Shape shape = shape_of(map, 4, "map is [N, H, W, C]");
    require(rounding.limit <= std::numeric_limits<Out>::max(), "limit does not fit the output");
    const In* x = checked<In>(map, shape, "map");
    Out* result = checked<Out>(out, shape, "out", true);
    const size_t length = shape[2] * shape[3];
    check_threads(threads);
    py::gil_scoped_release release;
    each_row(shape[0], shape[1], threads, [&](size_t image, size_t y) {
        const size_t line = (image * shape[1] + y) * length;
        row({x + line, shape[2], shape[3], rounding, result + line});
    });
}

void round_map(const py::array& map, const py::array& scale, const py::array& bias,
               const py::array& slope, float factor, float limit, const py::array& out,
               size_t threads, const std::string& isa) {
    const Shape shape = shape_of(map, 4, "map is [N, H, W, C]");
    const Rounding rounding = make_rounding(scale, bias, slope, factor, limit, shape[3]);
    const MapKernels& kernels = map_kernels(isa);
    if (py::isinstance<py::array_t<int16_t>>(map))
        return round_rows(map, rounding, out, threads, kernels.whole_to_8);
    if (py::isinstance<py::array_t<int16_t>>(out))
        return round_rows(map, rounding, out, threads, kernels.real_to_16);
    round_rows(map, rounding, out, threads, kernels.real_to_8);
}

// out = other + round(factor * prelu(scale * conv(bits) + bias)); the rounded part is clipped to
// +-limit. Maps are int16 [N, H', W', O].
void conv_steps(const std::shared_ptr<Conv>& conv, const py::array& bits, const py::array& scale,
                const py::array& bias, const py::array& slope, float factor, float limit,
                const py::array& other, const py::array& out, size_t threads,
                const std::string& isa) {
    const Geometry& g = conv->g;
    require(g.output == Output::sums && !g.pixels, "the convolution gives no sums");
    const Shape in = shape_of(bits, 5, "bits have 5 dimensions");
    const Shape map{in[0], g.output_size(in[2]), g.output_size(in[3]), g.outputs};
    require(map[1] >= 1 && map[2] >= 1, "a map is too small for the window");
    const uint8_t* data = checked<uint8_t>(bits, {in[0], g.groups, in[2], in[3], g.bytes}, "bits");
    const size_t image_bytes = g.groups * in[2] * in[3] * g.bytes;
    const Rounding rounding = make_rounding(scale, bias, slope, factor, limit, g.outputs);
    const int16_t* added = checked<int16_t>(other, map, "other");
    int16_t* result = checked<int16_t>(out, map, "out", true);  // may be `other` itself
    const MapKernels& kernels = map_kernels(isa);
    const Kernels& counter = find(isa);
    check_threads(threads);
    py::gil_scoped_release release;
    each_part(map[0], map[1], threads, [&](size_t image, size_t first, size_t end) {
        const uint8_t* from = data + image * image_bytes;
        const auto put = [&](const int32_t* counts, size_t c, size_t y) {
            const size_t at = (image * map[1] + y) * map[2] * g.outputs + c;
            const Rounding own{rounding.scale + c, rounding.bias + c, rounding.slope + c, factor,
                               limit};
            kernels.steps({counts, static_cast<int32_t>(g.products), map[2], conv->after(c) - c,
                           g.outputs, own, added + at, result + at});
        };
        conv->each_count(counter, from, in[2], in[3], first, end, put);
    });
}

// Real convolution of a map that already includes its padding. Weights are
// [groups, blocks, products, 16], bias [groups, 16 * blocks].
void conv_real(const py::array& map, const py::array& weights, const py::array& bias,
               const py::array& out, size_t kernel, size_t stride, size_t groups, size_t threads,
               const std::string& isa) {
    const Shape in = shape_of(map, 4, "map is [N, H, W, C]"),
                to = shape_of(out, 4, "out is [N, H', W', O]");
    for (size_t n : {kernel, stride, groups})
        require(n >= 1 && n <= (size_t{1} << 20), "the geometry is out of range");
    require(in[3] % groups == 0 && to[3] % groups == 0, "channels do not split into the groups");
    const size_t channels = in[3] / groups, outputs = to[3] / groups, blocks = (outputs + 15) / 16;
    const size_t rows = window_count(in[1], kernel, stride),
                 columns = window_count(in[2], kernel, stride);
    const size_t products = kernel * kernel * channels;
    require(rows >= 1 && columns >= 1, "a map is too small for the window");
    const float* x = checked<float>(map, in, "map");
    const float* w = checked<float>(weights, {groups, blocks, products, 16}, "weights");
    const float* b = checked<float>(bias, {groups, blocks * 16}, "bias");
    float* result = checked<float>(out, {in[0], rows, columns, to[3]}, "out", true);
    std::vector<size_t> offsets;  // offsets of the contiguous pieces of a window
    const size_t pieces = groups == 1 ? 1 : kernel, run = products / kernel / pieces;
    for (size_t i = 0; i < kernel * pieces; ++i)
        offsets.push_back((i / pieces * in[2] + i % pieces) * in[3]);
    const MapKernels& kernels = map_kernels(isa);
    check_threads(threads);
    py::gil_scoped_release release;
    each_row(in[0], rows, threads, [&](size_t image, size_t y) {
        for (size_t group = 0; group < groups; ++group) {
            const float* corner =
                x + (image * in[1] + y * stride) * in[2] * in[3] + group * channels;
            kernels.conv({corner, columns, stride * in[3], offsets.data(), offsets.size(), run,
                          w + group * blocks * products * 16, b + group * blocks * 16, blocks,
                          outputs, result + (image * rows + y) * columns * to[3] + group * outputs,
                          to[3]});
        }
    });
}

// How a whole convolution reads its map [N, H, W, C] and writes its output [N, H', W', O].
struct WholeConv {
    Shape in, to;
    size_t kernel, stride, run, threads;  // run: weights of a row of a window
    const int16_t* weights;
    const int32_t* bias;
    Rounding rounding;
};

// The rows are copied as int16. If windows have an odd number of values per row, the weight after
// them is 0, so the number read there does not matter.
template <class In, class Out>
void whole_rows(const WholeConv& conv, const In* x, Out* result,
                void (*sum)(const ConvRow<int16_t, int32_t>&),
                void (*round)(const RoundRow<int32_t, Out>&)) {
    const size_t in_row = conv.in[2] * conv.in[3], out_row = conv.to[2] * conv.to[3];
    std::vector<size_t> offsets;
    for (size_t i = 0; i < conv.kernel; ++i) offsets.push_back(i * in_row);
    py::gil_scoped_release release;
    each_row(conv.in[0], conv.to[1], conv.threads, [&](size_t image, size_t y) {
        int16_t* input = Scratch::grow(Sums::mine().input, conv.kernel * in_row + 1);
        int32_t* sums = Scratch::grow(Sums::mine().term, out_row);
        const In* from = x + (image * conv.in[1] + y * conv.stride) * in_row;
        std::copy(from, from + conv.kernel * in_row, input);
        sum({input, conv.to[2], conv.stride * conv.in[3], offsets.data(), conv.kernel, conv.run,
             conv.weights, conv.bias, (conv.to[3] + 15) / 16, conv.to[3], sums, conv.to[3]});
        round({sums, conv.to[2], conv.to[3], conv.rounding,
               result + (image * conv.to[1] + y) * out_row});
    });
}

// out = round(factor * prelu(scale * conv(map) + bias)), clipped to +-limit. The map is int8, uint8
// or int16; weights are [blocks, kernel * run / 2, 16, 2], start values of the sums [16 * blocks].
void conv_whole(const py::array& map, const py::array& weights, const py::array& starts,
                const py::array& scale, const py::array& bias, const py::array& slope, float factor,
                float limit, const py::array& out, size_t kernel, size_t stride, size_t threads,
                const std::string& isa) {
    const Shape in = shape_of(map, 4, "map is [N, H, W, C]"),
                to = shape_of(out, 4, "out is [N, H', W', O]");
    for (size_t n : {kernel, stride}) require(n >= 1 && n <= 1024, "the geometry is out of range");
    const size_t rows = window_count(in[1], kernel, stride),
                 columns = window_count(in[2], kernel, stride);
    const size_t run = (kernel * in[3] + 1) / 2 * 2, blocks = (to[3] + 15) / 16;
    require(rows >= 1 && columns >= 1 && to == Shape{in[0], rows, columns, to[3]},
            "the output does not fit");
    check_threads(threads);
    const Rounding rounding = make_rounding(scale, bias, slope, factor, limit, to[3]);
    const WholeConv conv{in,
                         to,
                         kernel,
                         stride,
                         run,
                         threads,
                         checked<int16_t>(weights, {blocks, kernel * run / 2, 16, 2}, "weights"),
                         checked<int32_t>(starts, {blocks * 16}, "starts"),
                         rounding};
    const MapKernels& kernels = map_kernels(isa);
    const auto write = [&](const auto* x) {
        if (py::isinstance<py::array_t<int16_t>>(out))
            return whole_rows(conv, x, checked<int16_t>(out, to, "out", true), kernels.conv_whole,
                              kernels.sums_to_16);
        require(limit <= std::numeric_limits<int8_t>::max(), "limit does not fit the output");
        whole_rows(conv, x, checked<int8_t>(out, to, "out", true), kernels.conv_whole,
                   kernels.sums_to_8);
    };
    if (py::isinstance<py::array_t<uint8_t>>(map)) return write(checked<uint8_t>(map, in, "map"));
    if (py::isinstance<py::array_t<int16_t>>(map)) return write(checked<int16_t>(map, in, "map"));
    write(checked<int8_t>(map, in, "map"));
}

template <class In>
void pool_rows(const py::array& map, const py::array& out, size_t kernel, size_t stride,
               size_t padding, const py::object& areas, size_t threads,
               void (*pool)(const PoolRow<In>&)) {
    const Shape in = shape_of(map, 4, "map is [N, H, W, C]"),
                to = shape_of(out, 4, "out is [N, H', W', C]");
    for (size_t n : {kernel, stride})
        require(n >= 1 && n <= (size_t{1} << 20), "the geometry is out of range");
    require(padding < kernel && in[0] == to[0] && in[3] == to[3], "the pool's maps do not fit");
    for (int i : {1, 2})  // every window must contain a pixel
        require((to[i] - 1) * stride < in[i] + padding, "the pool's windows go beyond the map");
    const In* x = checked<In>(map, in, "map");
    float* result = checked<float>(out, to, "out", true);
    const float* divisors =
        areas.is_none() ? nullptr : checked<float>(py::array(areas), {to[1], to[2]}, "areas");
    check_threads(threads);
    py::gil_scoped_release release;
    each_row(in[0], to[1], threads, [&](size_t image, size_t y) {
        const size_t top = y * stride < padding ? 0 : y * stride - padding;
        const size_t bottom = std::min(in[1], y * stride + kernel - padding);
        pool({x + image * in[1] * in[2] * in[3], in[2], in[3], kernel, stride, padding, top, bottom,
              to[2], divisors ? divisors + y * to[2] : nullptr,
              result + (image * to[1] + y) * to[2] * to[3]});
    });
}

// The largest value of each window; if `areas`, float32 [H', W'], is given, the sum divided by it.
// The map is float32 or int16.
void pool_map(const py::array& map, const py::array& out, size_t kernel, size_t stride,
              size_t padding, const py::object& areas, size_t threads, const std::string& isa) {
    const MapKernels& kernels = map_kernels(isa);
    if (py::isinstance<py::array_t<int16_t>>(map))
        return pool_rows(map, out, kernel, stride, padding, areas, threads, kernels.pool_whole);
    pool_rows(map, out, kernel, stride, padding, areas, threads, kernels.pool);
}

void register_network(py::module_& module) {
    module.def("pack_map", &pack_map, py::arg("map"), py::arg("thresholds"), py::arg("flips"),
               py::arg("bits"), py::arg("margin"), py::arg("threads"), py::arg("isa"),
               "Bits of a map of float32.");
    module.def("conv_bits", &conv_bits, py::arg("convs"), py::arg("bits"), py::arg("scale"),
               py::arg("bias"), py::arg("factors"), py::arg("other"), py::arg("out"),
               py::arg("threads"), py::arg("isa"),
               "A scaled sum of binary convolutions, as a map of float32.");
    module.def("pack_whole", &pack_whole, py::arg("map"), py::arg("limits"), py::arg("flips"),
               py::arg("bits"), py::arg("margin"), py::arg("threads"), py::arg("isa"),
               "Bits of a map of whole numbers.");
    module.def("conv_steps", &conv_steps, py::arg("conv"), py::arg("bits"), py::arg("scale"),
               py::arg("bias"), py::arg("slope"), py::arg("factor"), py::arg("limit"),
               py::arg("other"), py::arg("out"), py::arg("threads"), py::arg("isa"),
               "A binary convolution's rounded sums, added to whole numbers.");
    module.def("round_map", &round_map, py::arg("map"), py::arg("scale"), py::arg("bias"),
               py::arg("slope"), py::arg("factor"), py::arg("limit"), py::arg("out"),
               py::arg("threads"), py::arg("isa"), "Rounded numbers of a map.");
    module.def("conv_real", &conv_real, py::arg("map"), py::arg("weights"), py::arg("bias"),
               py::arg("out"), py::arg("kernel"), py::arg("stride"), py::arg("groups"),
               py::arg("threads"), py::arg("isa"), "Real convolution.");
    module.def("conv_whole", &conv_whole, py::arg("map"), py::arg("weights"), py::arg("starts"),
               py::arg("scale"), py::arg("bias"), py::arg("slope"), py::arg("factor"),
               py::arg("limit"), py::arg("out"), py::arg("kernel"), py::arg("stride"),
               py::arg("threads"), py::arg("isa"),
               "Rounded sums of a convolution of whole numbers.");
    module.def("pool_map", &pool_map, py::arg("map"), py::arg("out"), py::arg("kernel"),
               py::arg("stride"), py::arg("padding"), py::arg("areas"), py::arg("threads"),
               py::arg("isa"), "Largest, or mean, of windows.");
}

}  // namespace
}  // namespace rbsf
