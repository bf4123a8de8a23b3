// Checks of arguments from Python; each raises ValueError.

#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace py = pybind11;

namespace rbsf {
namespace {

using Shape = std::vector<size_t>;

std::string text(const Shape& shape) {
    std::string out = "[";
    for (size_t n : shape) out += (out.size() > 1 ? ", " : "") + std::to_string(n);
    return out + "]";
}

// The array's data. Raises ValueError for a wrong type, shape or layout, or if `write` and
// read-only.
template <class T>
T* checked(const py::array& array, const Shape& shape, const char* what, bool write = false) {
    const Shape found(array.shape(), array.shape() + array.ndim());
    if (!py::isinstance<py::array_t<T, py::array::c_style>>(array) || found != shape)
        throw std::invalid_argument(std::string(what) + " is " +
                                    std::string(py::str(array.dtype())) + " " + text(found) +
                                    " or not contiguous, expected " +
                                    std::string(py::str(py::dtype::of<T>())) + " " + text(shape));
    if (write && !array.writeable())
        throw std::invalid_argument(std::string(what) + " is read-only");
    return static_cast<T*>(const_cast<void*>(array.data()));
}

template <class T>
std::vector<T> copied(const py::object& object, size_t size, const char* what) {
    if (object.is_none()) return {};
    const T* data = checked<T>(py::array(object), {size}, what);
    return {data, data + size};
}

void require(bool good, const char* what) {
    if (!good) throw std::invalid_argument(what);
}

}  // namespace
}  // namespace rbsf
