// Buffer owns a block of host memory, aligned to 64 bytes for SIMD loads. Movable, not copyable;
// not thread safe. SharedBytes is a range of bytes and a share in their ownership: the wire passes
// it on while a sender or receiver still reads it.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <span>
#include <utility>

namespace kvship {

inline constexpr size_t kBufferAlignment = 64;

class Buffer {
 public:
  Buffer() = default;
  // Uninitialised memory of `num_bytes`; 0 makes an empty buffer.
  explicit Buffer(size_t num_bytes)
      : bytes_(num_bytes == 0 ? nullptr
                              : static_cast<std::byte*>(::operator new (
                                    num_bytes, std::align_val_t{kBufferAlignment}))),
        num_bytes_(num_bytes) {}

  Buffer(Buffer&& other) noexcept
      : bytes_(std::move(other.bytes_)), num_bytes_(std::exchange(other.num_bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    bytes_ = std::move(other.bytes_);
    num_bytes_ = std::exchange(other.num_bytes_, 0);
    return *this;
  }

  std::byte* data() { return bytes_.get(); }
  const std::byte* data() const { return bytes_.get(); }
  size_t num_bytes() const { return num_bytes_; }
  std::span<std::byte> bytes() { return {data(), num_bytes_}; }
  std::span<const std::byte> bytes() const { return {data(), num_bytes_}; }

  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data());
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data());
  }

  // Grows to at least `num_bytes`; if it has to grow, the contents are lost.
  void GrowTo(size_t num_bytes) {
    if (num_bytes > num_bytes_) *this = Buffer(num_bytes);
  }

 private:
  struct Free {
    void operator()(std::byte* bytes) const {
      ::operator delete (bytes, std::align_val_t{kBufferAlignment});
    }
  };
  std::unique_ptr<std::byte, Free> bytes_;
  size_t num_bytes_ = 0;
};

struct SharedBytes {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;  // shared: the wire and the retry path may both still read it
};

// An array of T in a Buffer. T must be trivial.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(size_t num_items) : buffer_(num_items * sizeof(T)), num_items_(num_items) {}
  T* data() { return buffer_.as<T>(); }
  const T* data() const { return buffer_.as<T>(); }
  size_t size() const { return num_items_; }
  T& operator[](size_t i) { return data()[i]; }
  const T& operator[](size_t i) const { return data()[i]; }
  std::span<T> span() { return {data(), num_items_}; }
  std::span<const T> span() const { return {data(), num_items_}; }
  size_t num_bytes() const { return buffer_.num_bytes(); }

 private:
  Buffer buffer_;
  size_t num_items_ = 0;
};

}  // namespace kvship
