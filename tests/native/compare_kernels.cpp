// Compares the kernels of this machine with the scalar ones on layers and rows at random, and all numbers to the bit.
// Without Python, so that it runs for other processors in an emulator: see tests/test_kernels_of_arm.py.
//
// usage: compare_kernels CASES; exit code 1 and a line for the first difference.

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "conv.hpp"
#include "isas.hpp"
#include "map_rows.hpp"

namespace {

using namespace rbsf;

struct Isa {
    Kernels kernels;
    MapKernels maps;
};

const Isa SCALAR{kernels<Scalar>("scalar"), with_scalar::table};

std::vector<Isa> vectorised() {
    std::vector<Isa> here;
    for (const Kernels* isa : available()) {
#if defined(__aarch64__)
        if (isa->name == std::string("neon")) here.push_back({*isa, with_neon::table});
#else
        if (isa->name == std::string("avx512")) here.push_back({*isa, with_avx512::table});
        if (isa->name == std::string("avx2")) here.push_back({*isa, with_avx2::table});
#endif
    }
    return here;
}

std::mt19937 source(1);

int number(int low, int high) { return std::uniform_int_distribution<int>(low, high)(source); }
bool flip() { return number(0, 1) == 1; }

template <class T>
std::vector<T> numbers(size_t count, int low, int high) {
    std::vector<T> found(count);
    for (T& value : found) value = static_cast<T>(number(low, high));
    return found;
}

std::vector<float> reals(size_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> found(count);
    for (float& value : found) value = normal(source);
    return found;
}

std::vector<int16_t> whole(size_t count) { return numbers<int16_t>(count, -127, 127); }

template <class T>
void compare(const std::vector<T>& found, const std::vector<T>& expected, const char* isa, const std::string& what) {
    for (size_t i = 0; i < found.size(); ++i) {
        if (std::memcmp(&found[i], &expected[i], sizeof(T)) == 0) continue;
        std::printf("%s: %s differs from the scalar kernel at %zu of %zu\n", isa, what.c_str(), i, found.size());
        std::exit(1);
    }
}

// ---- convolutions

struct Layer {
    Geometry g;
    std::vector<size_t> group_blocks;
    std::vector<Place> places;
    size_t height, width;
};

Layer random_layer() {
    Layer layer{};
    Geometry& g = layer.g;
    g.pixels = number(0, 3) == 0;
    g.output = g.pixels ? Output::bits : static_cast<Output>(number(0, 2));
    g.kernel = static_cast<size_t>(number(1, 6));
    g.stride = static_cast<size_t>(number(1, 3));
    g.groups = g.pixels ? 1 : static_cast<size_t>(number(1, 3));
    g.pool = g.output == Output::bits && flip();
    g.bytes = static_cast<size_t>(number(1, g.pixels ? 4 : 20));
    g.products = g.kernel * g.kernel * g.bytes * (g.pixels ? 1 : 8);
    g.outputs = g.groups * static_cast<size_t>(number(1, 40));
    g.planes = static_cast<size_t>(number(1, 2));
    g.margin = static_cast<size_t>(number(0, 2));
    const size_t blocks_each = (g.outputs / g.groups + 7) / 8, blocks = g.groups * blocks_each;
    layer.group_blocks.assign(g.groups, blocks_each);
    g.out_bytes = (blocks + g.planes - 1) / g.planes;
    for (size_t i = 0; i < blocks; ++i) layer.places.push_back({i % g.planes, i / g.planes});
    const size_t least = g.kernel + (g.pool ? 2 * g.stride : 0);
    layer.height = least + static_cast<size_t>(number(0, 12));
    layer.width = least + static_cast<size_t>(number(0, 40));
    return layer;
}

void compare_convolution(const std::vector<Isa>& here) {
    const Layer layer = random_layer();
    const Geometry& g = layer.g;
    const size_t slots = 8 * layer.places.size();
    std::vector<uint8_t> weights = numbers<uint8_t>(slots * g.window_bytes(), 0, 255);
    if (g.pixels)
        for (uint8_t& weight : weights) weight = static_cast<uint8_t>(number(-63, 63));
    const int far = static_cast<int>(g.products) / 4 * (g.pixels ? 100 : 1) + 1;
    const std::vector<int32_t> thresholds = numbers<int32_t>(slots, -far, far);
    const size_t real = g.output == Output::real ? g.outputs : 0;
    const Conv conv(g, weights.data(), thresholds.data(), layer.group_blocks, layer.places, reals(real), reals(real),
                    true, false);
    const size_t planes = g.pixels ? 1 : g.groups;
    const std::vector<uint8_t> in = numbers<uint8_t>(planes * layer.height * layer.width * g.bytes, 0, 255);
    const size_t rows = g.output_size(layer.height), columns = g.output_size(layer.width), m = 2 * g.margin;
    const size_t size = g.output == Output::bits ? g.planes * (rows + m) * (columns + m) * g.out_bytes
                                                 : 4 * g.outputs * rows * columns;
    const auto run = [&](const Kernels& isa) {
        std::vector<uint8_t> out(size);
        conv.rows(isa, in.data(), layer.height, layer.width, out.data(), 0, rows);
        return out;
    };
    const std::vector<uint8_t> expected = run(SCALAR.kernels);
    const std::string what = std::string(g.pixels ? "pixels" : "bits") + ", kernel " + std::to_string(g.kernel) +
                             ", stride " + std::to_string(g.stride) + ", bytes " + std::to_string(g.bytes);
    for (const Isa& isa : here) compare(run(isa.kernels), expected, isa.kernels.name, what);
}

// ---- rows of maps

constexpr size_t LARGEST_MAP = 4 * 24 * 40;  // of those that are pooled

void compare_pack(const std::vector<Isa>& here) {
    const size_t pixels = static_cast<size_t>(number(1, 20)), channels = static_cast<size_t>(number(1, 70));
    const size_t bytes = (channels + 7) / 8, step = channels + static_cast<size_t>(number(0, 5));
    std::vector<float> x = reals(pixels * step), thresholds = reals(channels);
    for (size_t c = 0; c < channels; c += 3) thresholds[c] = x[c];  // equal is above
    const std::vector<uint8_t> flips = numbers<uint8_t>(bytes, 0, channels % 8 ? (1 << channels % 8) - 1 : 255);
    const auto run = [&](const MapKernels& maps) {
        std::vector<uint8_t> out(pixels * bytes);
        maps.pack({x.data(), pixels, step, channels, thresholds.data(), flips.data(), out.data(), bytes});
        return out;
    };
    const std::vector<uint8_t> expected = run(SCALAR.maps);
    for (const Isa& isa : here) compare(run(isa.maps), expected, isa.kernels.name, "a packed row");
}

void compare_sum(const std::vector<Isa>& here) {
    const size_t pixels = static_cast<size_t>(number(1, 20)), channels = static_cast<size_t>(number(1, 70));
    const size_t count = pixels * channels;
    const std::vector<int32_t> sums = numbers<int32_t>(count, -5000, 5000);
    const std::vector<float> scale = reals(channels), before = reals(count), factors = reals(pixels);
    const std::vector<float> bias = reals(channels), other = reals(count);
    const bool last = flip(), with_before = flip(), with_other = last && flip(), with_factors = last && flip();
    const auto run = [&](const MapKernels& maps) {
        std::vector<float> out(count);
        maps.sum({sums.data(), pixels, channels, scale.data(), with_before ? before.data() : nullptr,
                  with_factors ? factors.data() : nullptr, last ? bias.data() : nullptr,
                  with_other ? other.data() : nullptr, out.data()});
        return out;
    };
    const std::vector<float> expected = run(SCALAR.maps);
    for (const Isa& isa : here) compare(run(isa.maps), expected, isa.kernels.name, "a row of sums");
}

void compare_whole_numbers(const std::vector<Isa>& here) {
    const size_t pixels = static_cast<size_t>(number(1, 20)), channels = static_cast<size_t>(number(1, 70));
    const size_t count = pixels * channels, bytes = (channels + 7) / 8;
    const size_t block = std::min<size_t>(channels, 8);  // of channels that are counted together
    const std::vector<int32_t> counts = numbers<int32_t>(8 * pixels, 0, 2000);
    const std::vector<int16_t> other = numbers<int16_t>(count, -30000, 30000);
    std::vector<int16_t> limits = numbers<int16_t>(channels, -31000, 31000);
    for (size_t c = 0; c < channels; c += 3) limits[c] = other[c];  // equal is not above
    const std::vector<float> scale = reals(channels), bias = reals(channels), slope = reals(channels);
    const std::vector<uint8_t> flips = numbers<uint8_t>(bytes, 0, channels % 8 ? (1 << channels % 8) - 1 : 255);
    const auto steps = [&](const MapKernels& maps) {
        std::vector<int16_t> out = other;  // the sum takes the place of what is added
        maps.steps({counts.data(), 2000, pixels, block, channels, {scale.data(), bias.data(), slope.data(), 0.5f, 1023.0f},
                    out.data(), out.data()});
        return out;
    };
    const auto pack = [&](const MapKernels& maps) {
        std::vector<uint8_t> out(pixels * bytes);
        maps.pack_whole({other.data(), pixels, channels, channels, limits.data(), flips.data(), out.data(), bytes});
        return out;
    };
    const std::vector<int16_t> expected = steps(SCALAR.maps);
    const std::vector<uint8_t> bits = pack(SCALAR.maps);
    for (const Isa& isa : here) {
        compare(steps(isa.maps), expected, isa.kernels.name, "a row of whole numbers");
        compare(pack(isa.maps), bits, isa.kernels.name, "a packed row of whole numbers");
    }
}

template <class In>
void compare_pool(const std::vector<Isa>& here, const std::vector<In>& all, void (*MapKernels::*pool)(const PoolRow<In>&)) {
    const size_t kernel = static_cast<size_t>(number(2, 4)), stride = static_cast<size_t>(number(1, 3));
    const size_t padding = static_cast<size_t>(number(0, 1)), width = kernel + static_cast<size_t>(number(0, 20));
    const size_t channels = static_cast<size_t>(number(1, 40)), pixels = (width + 2 * padding - kernel) / stride + 1;
    const std::vector<In> in(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(kernel * width * channels));
    const std::vector<float> areas(pixels, static_cast<float>(kernel * kernel));
    const bool mean = flip();
    const auto run = [&](const MapKernels& maps) {
        std::vector<float> out(pixels * channels);
        (maps.*pool)({in.data(), width, channels, kernel, stride, padding, 0, kernel, pixels,
                   mean ? areas.data() : nullptr, out.data()});
        return out;
    };
    const std::vector<float> expected = run(SCALAR.maps);
    for (const Isa& isa : here) compare(run(isa.maps), expected, isa.kernels.name, "a pooled row");
}

template <class In, class Sum, class Make>
void compare_conv(const std::vector<Isa>& here, const Make& make, size_t step,
                  void (*MapKernels::*conv)(const ConvRow<In, Sum>&)) {
    const size_t pixels = static_cast<size_t>(number(1, 20)), channels = static_cast<size_t>(number(1, 70));
    const size_t blocks = (channels + 15) / 16, runs = static_cast<size_t>(number(1, 3));
    const size_t run_length = step * static_cast<size_t>(number(1, 12)), x_step = static_cast<size_t>(number(1, 8));
    const size_t row = pixels * x_step + run_length;
    std::vector<size_t> offsets;
    for (size_t r = 0; r < runs; ++r) offsets.push_back(r * row);
    const std::vector<In> x = make(runs * row), weights = make(blocks * runs * run_length * 16);
    const std::vector<In> starts = make(blocks * 16);
    const std::vector<Sum> bias(starts.begin(), starts.end());
    const auto run = [&](const MapKernels& maps) {
        std::vector<Sum> out(pixels * channels);
        (maps.*conv)({x.data(), pixels, x_step, offsets.data(), runs, run_length, weights.data(), bias.data(), blocks,
                   channels, out.data(), channels});
        return out;
    };
    const std::vector<Sum> expected = run(SCALAR.maps);
    for (const Isa& isa : here) compare(run(isa.maps), expected, isa.kernels.name, "a row of a convolution of maps");
}

}  // namespace

int main(int count, char** words) {
    const int cases = count > 1 ? std::atoi(words[1]) : 0;
    if (cases < 1) {
        std::printf("usage: compare_kernels CASES, a number from 1\n");
        return 2;
    }
    const std::vector<Isa> here = vectorised();
    std::string names;
    for (const Isa& isa : here) names += std::string(names.empty() ? "" : ", ") + isa.kernels.name;
    for (int i = 0; i < cases; ++i) {
        compare_convolution(here);
        compare_pack(here);
        compare_sum(here);
        compare_whole_numbers(here);
        compare_pool(here, reals(LARGEST_MAP), &MapKernels::pool);
        compare_pool(here, whole(LARGEST_MAP), &MapKernels::pool_whole);
        compare_conv(here, reals, 1, &MapKernels::conv);
        compare_conv(here, whole, 2, &MapKernels::conv_whole);
    }
    std::printf("%d cases: %s and scalar are equal to the bit\n", cases, names.empty() ? "nothing" : names.c_str());
    return here.empty() ? 1 : 0;
}
