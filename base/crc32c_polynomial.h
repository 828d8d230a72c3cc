// Arithmetic of CRC32C's remainders: polynomials over GF(2) modulo Castagnoli's, the highest bit
// being the coefficient of x^0 and the lowest that of x^31, as the bits of a little-endian word
// enter the checksum. Pure functions, for host and device code.
#pragma once

#include <cstdint>

namespace kvship {

constexpr uint32_t TimesX(uint32_t a) {
  constexpr uint32_t kCastagnoli = 0x82f63b78;
  return a >> 1 ^ ((a & 1) != 0 ? kCastagnoli : 0);
}

constexpr uint32_t MultiplyPolynomials(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (int power = 0; power < 32; ++power) {
    if ((a >> (31 - power) & 1) != 0) product ^= b;
    b = TimesX(b);
  }
  return product;
}

// x^n.
constexpr uint32_t PowerOfX(uint64_t n) {
  uint32_t power = uint32_t{1} << 31;
  for (uint32_t square = uint32_t{1} << 30; n > 0; n /= 2) {
    if (n % 2 != 0) power = MultiplyPolynomials(power, square);
    square = MultiplyPolynomials(square, square);
  }
  return power;
}

}  // namespace kvship
