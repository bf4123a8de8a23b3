// Sizes of a convolution, and the buffers of a thread.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.hpp"

namespace rbsf {

enum class Output { bits, real, sums, sums16, sums8 };  // sums have 32 bits, unless named otherwise

struct Geometry {
    bool pixels;  // the input is uint8 [N, H, W, bytes] instead of bits
    Output output;
    size_t kernel, stride, groups;
    bool pool;
    size_t bytes;                      // bytes of an input pixel (in one plane)
    size_t products;                   // number of products summed in one output
    size_t outputs;                    // output channels
    size_t planes, out_bytes, margin;  // form of an output map of bits

    size_t conv_size(size_t size) const { return size < kernel ? 0 : (size - kernel) / stride + 1; }
    size_t output_size(size_t size) const {
        const size_t conv = conv_size(size);
        return !pool ? conv : conv < 3 ? 0 : (conv - 3) / 2 + 1;
    }
    size_t window_bytes() const { return kernel * kernel * bytes; }
    size_t words() const { return (window_bytes() + 7) / 8; }
    // The number of lines, 4 bytes of pixels each, in a row of a window.
    size_t row_lines() const { return (kernel * bytes + 3) / 4; }
};

struct Place {
    size_t plane, byte;  // the place of 8 output bits
};

// The buffers of one thread for computing rows; they are kept between calls.
struct Scratch {
    std::vector<uint64_t> windows;
    std::vector<size_t> offsets;
    std::vector<uint8_t> image, nibbles, band, merged, pooled, unused;
    std::vector<int32_t> counts;
    std::vector<uint8_t*> out;
    std::vector<Line> spread, sums;
    std::vector<Line> weights;  // spread weights of one layer
    uint64_t weights_of = 0;    // the number of that layer

    template <class T>
    static T* grow(std::vector<T>& buffer, size_t size) {
        if (buffer.size() < size) buffer.resize(size);
        return buffer.data();
    }
    static Scratch& mine() {
        thread_local Scratch scratch;
        return scratch;
    }
};

}  // namespace rbsf
