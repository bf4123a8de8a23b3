// The kernels as a Python module. It checks every argument that could make a kernel access memory
// out of bounds.

#if defined(__GNUC__) && !defined(__clang__)
// With tree-pre, the sums of a tile would be stored to the stack at every step of the inner loop.
#pragma GCC optimize("no-tree-pre")
#endif

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>

#include "checks.hpp"
#include "conv.hpp"
#include "isas.hpp"
#include "network.hpp"
#include "pool.hpp"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "bits are packed for little-endian machines"
#endif

namespace rbsf {
namespace {

Output output_named(const std::string& name) {
    if (name == "bits") return Output::bits;
    if (name == "real") return Output::real;
    if (name == "sums") return Output::sums;
    if (name == "sums16") return Output::sums16;
    require(name == "sums8", "output is bits, real, sums, sums16 or sums8");
    return Output::sums8;
}

std::shared_ptr<Conv> make_conv(bool pixels, const std::string& output, size_t kernel,
                                size_t stride, bool pool, size_t bytes, size_t products,
                                size_t outputs, size_t planes, size_t out_bytes, size_t margin,
                                const std::vector<size_t>& group_blocks, const py::array& places,
                                const py::array& weights, const py::array& thresholds,
                                const py::object& scale, const py::object& bias) {
    const size_t groups = group_blocks.size(), limit = size_t{1} << 20;
    for (size_t n : {kernel, stride, bytes, products, outputs, groups})
        require(n >= 1 && n <= limit * 16, "a number of the geometry is out of range");
    // The square of the kernel times the bytes must fit 64 bits.
    require(kernel <= 1024, "the kernel is too large");
    for (size_t n : {planes, out_bytes, margin})
        require(n <= limit, "a number of the output map is out of range");
    size_t blocks = 0;
    for (size_t n : group_blocks) {
        require(n >= 1 && n <= limit, "a group's number of blocks is out of range");
        blocks += n;
    }
    const Geometry g{pixels,    output_named(output),
                     kernel,    stride,
                     groups,    pool,
                     bytes,     products,
                     outputs,   planes,
                     out_bytes, margin};
    require(g.output != Output::sums16 || products < (1 << 15), "sums do not fit 16 bits");
    require(g.output != Output::sums8 || products < (1 << 7), "sums do not fit 8 bits");
    require(!pixels || (groups == 1 && g.output == Output::bits),
            "pixels go to bits, in one group");
    require(!pool || g.output == Output::bits, "only bits are pooled");
    std::vector<Place> where;
    if (g.output == Output::bits) {
        const int32_t* place = checked<int32_t>(places, {blocks, 2}, "places");
        for (size_t i = 0; i < blocks; ++i) {
            where.push_back(
                {static_cast<size_t>(place[2 * i]), static_cast<size_t>(place[2 * i + 1])});
            require(where[i].plane < planes && where[i].byte < out_bytes,
                    "a place is outside of the map");
        }
    } else {
        require(outputs % groups == 0, "outputs do not split into the groups");
        for (size_t n : group_blocks)
            require(n == (outputs / groups + 7) / 8, "blocks do not fit the outputs");
    }
    const auto any = [](const auto& has) {
        return std::any_of(std::begin(ALL), std::end(ALL),
                           [&](const Kernels& isa) { return has(isa) && isa.available(); });
    };
    const bool nibbles = any([](const Kernels& isa) { return isa.nibbles != nullptr; });
    const bool spread = any([](const Kernels& isa) { return isa.bytes != nullptr; });
    const size_t size = g.output == Output::real ? outputs : 0;
    require((size > 0) == !scale.is_none() && (size > 0) == !bias.is_none(),
            "scale and bias go with a real output");
    const uint8_t* rows =
        checked<uint8_t>(weights, {8 * blocks, kernel * kernel * bytes}, "weights");
    const int32_t* ends = checked<int32_t>(thresholds, {8 * blocks}, "thresholds");
    return std::make_shared<Conv>(g, rows, ends, group_blocks, std::move(where),
                                  copied<float>(scale, size, "scale"),
                                  copied<float>(bias, size, "bias"), nibbles, spread);
}

// The maps that a convolution reads and writes.
struct Maps {
    const uint8_t* in;
    uint8_t* out;
    size_t images, rows;  // rows: of the output
    size_t height, width;
    size_t in_bytes, out_bytes;  // bytes of one image
};

uint8_t* sums_of(Output output, const py::array& out, const Shape& shape) {
    if (output == Output::sums16)
        return reinterpret_cast<uint8_t*>(checked<int16_t>(out, shape, "output", true));
    if (output == Output::sums8)
        return reinterpret_cast<uint8_t*>(checked<int8_t>(out, shape, "output", true));
    return reinterpret_cast<uint8_t*>(checked<int32_t>(out, shape, "output", true));
}

// Check the maps of a convolution.
Maps maps_of(const Conv& conv, const py::array& in, const py::array& out) {
    const Geometry& g = conv.g;
    require(in.ndim() == (g.pixels ? 4 : 5), "a map has the wrong number of dimensions");
    const auto dim = [&](int i) { return static_cast<size_t>(in.shape(i)); };
    const size_t n = dim(0), height = dim(g.pixels ? 1 : 2), width = dim(g.pixels ? 2 : 3);
    const Shape in_shape =
        g.pixels ? Shape{n, height, width, g.bytes} : Shape{n, g.groups, height, width, g.bytes};
    const size_t rows = g.output_size(height), columns = g.output_size(width), m = 2 * g.margin;
    require(rows >= 1 && columns >= 1, "a map is too small for the window");
    Maps maps{checked<uint8_t>(in, in_shape, "input"), nullptr, n, rows, height, width, 0, 0};
    if (g.output == Output::bits)
        maps.out = checked<uint8_t>(out, {n, g.planes, rows + m, columns + m, g.out_bytes},
                                    "output", true);
    else if (g.output == Output::real)
        maps.out = reinterpret_cast<uint8_t*>(
            checked<float>(out, {n, g.outputs, rows, columns}, "output", true));
    else
        maps.out = sums_of(g.output, out, {n, rows, columns, g.outputs});
    maps.in_bytes = n ? in.nbytes() / n : 0;
    maps.out_bytes = n ? out.nbytes() / n : 0;
    return maps;
}

// Compute one convolution of a map.
void conv(const std::shared_ptr<Conv>& layer, const py::array& map, const py::array& out,
          size_t threads, const std::string& isa_name) {
    check_threads(threads);
    const Kernels& isa = find(isa_name);
    const Maps maps = maps_of(*layer, map, out);
    py::gil_scoped_release release;
    each_part(maps.images, maps.rows, threads, [&](size_t image, size_t first, size_t end) {
        layer->rows(isa, maps.in + image * maps.in_bytes, maps.height, maps.width,
                    maps.out + image * maps.out_bytes, first, end);
    });
}

// The most this core can do: `vpopcntq` of whole registers per second, alone, and with an XOR and a
// sum each.
std::pair<double, double> popcount_rates() {
    find("avx512");
#if defined(__x86_64__) || defined(_M_X64)
    constexpr size_t LOOPS = 20000;
    const auto rate = [](uint64_t (*count)(size_t)) {
        const auto start = std::chrono::steady_clock::now();
        const volatile uint64_t kept = count(LOOPS);
        static_cast<void>(kept);
        return 16 * LOOPS /
               std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    py::gil_scoped_release release;
    return {rate(&Avx512::count_registers<false>), rate(&Avx512::count_registers<true>)};
#else
    return {};
#endif
}

}  // namespace
}  // namespace rbsf

PYBIND11_MODULE(_native, module) {
    using namespace rbsf;
    module.doc() = "Kernels of the packed engine; use rbsf.engine.run.";
    py::class_<Conv, std::shared_ptr<Conv>>(module, "Conv")
        .def(py::init(&make_conv), py::kw_only(), py::arg("pixels"), py::arg("output"),
             py::arg("kernel"), py::arg("stride"), py::arg("pool"), py::arg("bytes"),
             py::arg("products"), py::arg("outputs"), py::arg("planes"), py::arg("out_bytes"),
             py::arg("margin"), py::arg("group_blocks"), py::arg("places"), py::arg("weights"),
             py::arg("thresholds"), py::arg("scale"), py::arg("bias"));
    module.def("isas", &isas,
               "Instruction sets of this machine that there are kernels for, fastest first.");
    module.def("popcount_rates", &popcount_rates,
               "Popcounts of 512 bits a second: alone; with an XOR and a sum each.");
    module.def("conv", &conv, py::arg("layer"), py::arg("map"), py::arg("out"), py::arg("threads"),
               py::arg("isa"), "A convolution of bits or pixels.");
    register_network(module);
}
