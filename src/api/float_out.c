/* SPDX-License-Identifier: MIT */
/* Floats as text. An answer has hundreds of thousands of them and is made on the loop; "%.9g" takes
 * about six times as long (tests/unit/api/test_float_out.c times both). Nine digits tell all floats apart with a factor of 6 to spare,
 * so the last one need not be rounded to perfection: a product of doubles is exact enough. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/vectors.h"

#define DIGITS 9
#define LEAST_EXPONENT (-13) /* 10^(8 - exponent) is a double without error from here */

static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10,
                                1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21};

/* The nine digits of value as a number, and its decimal exponent; value in [1e-13, 1e9). */
static uint32_t digits_of(double value, int *ret_exponent) {
  int binary;
  frexp(value, &binary);
  int exponent = (int)floor((binary - 1) * 0.30102999566398120); /* right, or one too small */
  if (exponent < LEAST_EXPONENT) exponent = LEAST_EXPONENT;
  double scaled = value * powers[DIGITS - 1 - exponent];
  if (scaled >= 999999999.5) {
    exponent++;
    scaled = value * powers[DIGITS - 1 - exponent];
  }
  *ret_exponent = exponent;
  return (uint32_t)(scaled + 0.5);
}

/* Writes the digits without the zeros at their end; returns how many. */
static size_t put_digits(uint32_t number, char ret[DIGITS]) {
  for (int i = DIGITS - 1; i >= 0; i--, number /= 10) ret[i] = (char)('0' + number % 10);
  size_t n = DIGITS;
  while (n > 1 && ret[n - 1] == '0') n--;
  return n;
}

size_t api_float_text(float value, char ret[API_FLOAT_BYTES]) {
  double size = fabs((double)value);
  if (size == 0) return (size_t)(ret[0] = '0', 1);
  if (!(size >= 1e-13 && size < 999999999)) return (size_t)snprintf(ret, API_FLOAT_BYTES, "%.9g", (double)value);
  char digits[DIGITS], *at = ret;
  int exponent;
  size_t n = put_digits(digits_of(size, &exponent), digits);
  if (value < 0) *at++ = '-';
  if (exponent >= 0) { /* 123.456 */
    size_t whole = (size_t)exponent + 1;
    for (size_t i = 0; i < whole; i++) *at++ = i < n ? digits[i] : '0';
    if (n > whole) *at++ = '.';
    for (size_t i = whole; i < n; i++) *at++ = digits[i];
  } else if (exponent >= -5) { /* 0.00123 */
    *at++ = '0';
    *at++ = '.';
    for (int i = -1; i > exponent; i--) *at++ = '0';
    memcpy(at, digits, n);
    at += n;
  } else { /* 1.23e-06 */
    *at++ = digits[0];
    if (n > 1) *at++ = '.';
    memcpy(at, digits + 1, n - 1);
    at += n - 1;
    *at++ = 'e';
    *at++ = '-';
    *at++ = (char)('0' - exponent / 10);
    *at++ = (char)('0' - exponent % 10);
  }
  return (size_t)(at - ret);
}

void api_base64(struct tl_buffer *out, const void *bytes, size_t n) {
  static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const unsigned char *in = bytes;
  char *at = tl_buffer_reserve(out, (n + 2) / 3 * 4);
  if (!at) return;
  for (size_t i = 0; i < n; i += 3) {
    uint32_t group = (uint32_t)in[i] << 16 | (i + 1 < n ? (uint32_t)in[i + 1] << 8 : 0) | (i + 2 < n ? in[i + 2] : 0);
    for (int k = 0; k < 4; k++) *at++ = alphabet[group >> (18 - 6 * k) & 63];
  }
  if (n % 3) at[-1] = '=';
  if (n % 3 == 1) at[-2] = '=';
  out->length += (n + 2) / 3 * 4;
}
