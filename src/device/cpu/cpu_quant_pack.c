/* SPDX-License-Identifier: MIT */
/* Quantized rows into the panels of cpu_quant.h, bit for bit what the file says. */
#include <string.h>

#include "device/cpu/cpu_quant.h"

bool cpu_quant_can(const struct tl_tensor *t) {
  return tl_quant_format(t->dtype) && t->n_dims == 2 && t->shape[1] % CPU_CELL == 0;
}

void cpu_quant_measure(struct cpu_matrix *w, const struct tl_tensor *t) {
  w->quant = tl_quant_format(t->dtype);
  w->order = tl_tensor_order(t);
  w->k_padded = w->n_in;
  uint64_t shared = tl_tensor_group_columns(t);
  w->run = shared >= CPU_K_BLOCK ? CPU_CHUNK_CELLS : (unsigned)(shared / CPU_CELL);
  unsigned cells = w->n_in / CPU_CELL;
  w->panel_bytes = cells / CPU_CHUNK_CELLS * cpu_quant_chunk_bytes(w->quant, w->run, CPU_CHUNK_CELLS);
  if (cells % CPU_CHUNK_CELLS) w->panel_bytes += cpu_quant_chunk_bytes(w->quant, w->run, cells % CPU_CHUNK_CELLS);
}

#define INLINE static inline __attribute__((always_inline))

/* `width` bits of the code of input k, in the vector's field for its quad. */
INLINE void put_plane(uint8_t *plane, const unsigned width, unsigned k, unsigned out, unsigned code) {
  const unsigned per_byte = 8 / width;
  unsigned quad = k / 4;
  size_t vector = quad / per_byte * 2 + out / 16;
  plane[vector * 64 + out % 16 * 4 + k % 4] |= (uint8_t)((code & ((1u << width) - 1)) << quad % per_byte * width);
}

/* n codes from input 0 of the first cell on. */
INLINE void put_codes_of(const unsigned bits, uint8_t *cells, unsigned out, const uint8_t *codes, unsigned n) {
  const unsigned first = bits == 8 ? 8 : bits >= 4 ? 4 : 2, rest = bits - first;
  for (unsigned k = 0; k < n; k++) {
    uint8_t *cell = cells + k / CPU_CELL * cpu_quant_cell_bytes(bits);
    put_plane(cell, first, k % CPU_CELL, out, codes[k]);
    if (rest) put_plane(cell + cpu_quant_cell_bytes(first), rest ? rest : 1, k % CPU_CELL, out, codes[k] >> first);
  }
}

/* Once for each width, so that the loop's shifts are constants: loading is mostly this. */
static void put_codes(unsigned bits, uint8_t *cells, unsigned out, const uint8_t *codes, unsigned n) {
  switch (bits) {
    case 2: put_codes_of(2, cells, out, codes, n); break;
    case 3: put_codes_of(3, cells, out, codes, n); break;
    case 4: put_codes_of(4, cells, out, codes, n); break;
    case 5: put_codes_of(5, cells, out, codes, n); break;
    case 6: put_codes_of(6, cells, out, codes, n); break;
    default: put_codes_of(8, cells, out, codes, n);
  }
}

static void put_scales(const struct tl_quant_format *f, char *super, char *records, unsigned record, unsigned out,
                       const struct tl_quant_block *b, unsigned group) {
  size_t at = record * cpu_quant_record_bytes(f->scale);
  uint16_t *half = (uint16_t *)(void *)(records + at);
  uint8_t *byte = (uint8_t *)records + at;
  uint16_t *supers = (uint16_t *)(void *)super;
  switch (f->scale) {
    case TL_SCALE_HALF: half[out] = b->d; break;
    case TL_SCALE_HALF_MIN:
      half[out] = b->d;
      half[CPU_PANEL + out] = b->m;
      break;
    case TL_SCALE_E8M0: byte[out] = (uint8_t)b->d; break;
    case TL_SCALE_SUPER:
      supers[out] = b->d;
      byte[out] = b->scales[group];
      break;
    case TL_SCALE_SUPER_MIN:
      supers[out] = b->d;
      supers[CPU_PANEL + out] = b->m;
      byte[out] = b->scales[group];
      byte[CPU_PANEL + out] = b->mins[group];
      break;
    case TL_SCALE_ZERO:
      memcpy(byte + out * sizeof(float), &b->scale, sizeof b->scale);
      byte[CPU_PANEL * sizeof(float) + out] = b->mins[0];
      break;
    case TL_SCALE_E4M3: {
      const float factor = b->scale * 128; /* f8_16 makes 1/256 of a number, the table is doubled */
      memcpy(super + out * sizeof factor, &factor, sizeof factor);
      byte[out] = b->scales[group];
      break;
    }
  }
}

static void pack_chunk(const struct cpu_matrix *w, char *chunk, unsigned n_cells, uint32_t first, unsigned out,
                       const struct tl_tensor *t, uint64_t row) {
  const struct tl_quant_format *f = w->quant;
  char *records = chunk + cpu_quant_super_bytes(f->scale), *cells = chunk + cpu_quant_head_bytes(f, w->run, n_cells);
  struct tl_quant_block block;
  for (unsigned k = 0; k < n_cells * CPU_CELL; k += f->block) {
    tl_quant_read(t, row, (first + k) / f->block, &block);
    put_codes(f->bits, (uint8_t *)cells + k / CPU_CELL * cpu_quant_cell_bytes(f->bits), out, block.codes, f->block);
    for (unsigned group = 0; group < f->block / f->group; group++) {
      unsigned record = f->scale == TL_SCALE_ZERO ? k / CPU_CELL / w->run : k / f->group + group;
      put_scales(f, chunk, records, record, out, &block, group);
    }
  }
}

void cpu_quant_pack_row(const struct cpu_matrix *w, uint32_t out, const struct tl_tensor *t, uint64_t row, uint32_t column) {
  char *chunk = w->panels + out / CPU_PANEL * w->panel_bytes;
  for (uint32_t first = 0; first < w->n_in; first += CPU_K_BLOCK) {
    unsigned n = w->n_in - first < CPU_K_BLOCK ? (w->n_in - first) / CPU_CELL : CPU_CHUNK_CELLS;
    pack_chunk(w, chunk, n, column + first, out % CPU_PANEL, t, row);
    chunk += cpu_quant_chunk_bytes(w->quant, w->run, n);
  }
}
