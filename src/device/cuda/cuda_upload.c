/* SPDX-License-Identifier: MIT */
/* Weights from mapped files to the device. Each of a few threads has two pinned
 * buffers: it fills one, from the page cache or the disk, while the other travels. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "device/cuda/cuda_private.h"

#define BUFFER_BYTES ((size_t)8 << 20)
#define MAX_THREADS 8

struct upload {
  struct cuda_device *d;
  const struct cuda_part *parts;
  unsigned n_parts;
  const struct tl_device_load *load;
  uint64_t longest; /* row of a tensor, in elements */
  _Atomic uint64_t next; /* piece, over all parts; relaxed: it only divides the work */
  _Atomic uint64_t done; /* bytes; relaxed: a figure to be shown */
  _Atomic bool failed;   /* relaxed: a hint to the others to stop */
};

struct uploader {
  struct upload *u;
  pthread_t thread;
  bool reports; /* the caller's own thread: progress comes from one thread only */
  void *stream, *events[2];
  char *buffers[2];
  float *row; /* the longest of any tensor */
  bool travelling[2];
  int result;
  struct tl_error error;
};

/* --- pieces ----------------------------------------------------------------------------------- */

/* A row on its way. */
static size_t line_bytes(const struct cuda_part *part) {
  switch (part->kind) {
    case CUDA_PART_T: return part->n_columns * 2;
    case CUDA_PART_FLOATS: return part->n_columns * sizeof(float);
    case CUDA_PART_CODES: return cuda_row_bytes(part->format, (uint32_t)part->n_columns);
    case CUDA_PART_SCALES: return cuda_scales_bytes(part->format, (uint32_t)part->n_columns);
    case CUDA_PART_ORDER: return part->n_columns * sizeof(uint32_t);
  }
  return 0;
}

static uint64_t rows_of_piece(const struct cuda_part *part) {
  uint64_t rows = BUFFER_BYTES / line_bytes(part);
  return rows ? rows : 1;
}

static uint64_t pieces_of(const struct cuda_part *part) {
  uint64_t rows = rows_of_piece(part);
  return (part->n_rows + rows - 1) / rows;
}

/* Which row, or element, of the tensor is the i-th of the part; false: it is padding. */
static bool find_source(const struct cuda_part *part, uint64_t i, uint64_t *ret) {
  *ret = i;
  if (!part->order) return true;
  uint16_t at = part->order->at[i % part->order->padded];
  *ret = i / part->order->padded * part->order->size + at;
  return at != CUDA_NOTHING;
}

/* The bytes that it took. */
static size_t put_value(const struct cuda_device *d, enum cuda_part_kind kind, float value, char *to) {
  uint16_t half = d->dtype == TL_CUDA_BF16 ? tl_f32_to_bf16(value) : tl_f32_to_f16(value);
  size_t bytes = kind == CUDA_PART_T ? sizeof half : sizeof value;
  memcpy(to, kind == CUDA_PART_T ? (void *)&half : &value, bytes);
  return bytes;
}

static void put_order(const struct cuda_part *part, char *to) {
  const uint32_t *order = tl_tensor_order(part->tensor);
  for (uint32_t k = 0; k < part->n_columns; k++) memcpy(to + k * sizeof k, order ? &order[k] : &k, sizeof k);
}

/* A row, as the device wants it; whole: (columns of the tensor) for formats that are not T. */
static void convert_row(const struct cuda_device *d, const struct cuda_part *part, uint64_t row, float *whole, char *to) {
  const struct tl_tensor *t = part->tensor;
  if (part->kind == CUDA_PART_CODES) return cuda_store_codes(part, row, to);
  if (part->kind == CUDA_PART_SCALES) return cuda_store_scales(part, row, to);
  if (part->kind == CUDA_PART_ORDER) return put_order(part, to);
  bool same = !t->packed && !t->column_step && t->dtype == (d->dtype == TL_CUDA_BF16 ? TL_DTYPE_BF16 : TL_DTYPE_F16);
  if (same) {
    memcpy(to, (const char *)tl_tensor_row(t, row) + part->column * 2, part->n_columns * 2);
    return;
  }
  tl_tensor_row_to_f32(t, row, whole);
  for (uint64_t k = 0; k < part->n_columns; k++) put_value(d, CUDA_PART_T, whole[part->column + k], to + 2 * k);
}

/* The rows of a piece, one after the other. Tensors of one dimension are one row. */
static void convert(struct uploader *w, const struct cuda_part *part, uint64_t row, uint64_t n, char *to) {
  if (part->tensor->n_dims == 1) {
    for (uint64_t k = 0; k < part->n_columns; k++) {
      float value = 0;
      uint64_t from;
      if (find_source(part, k, &from)) {
        tl_tensor_row_to_f32(part->tensor, part->column + from, &value);
        value += part->plus;
      }
      to += put_value(w->u->d, part->kind, value, to);
    }
    return;
  }
  for (uint64_t i = 0; i < n; i++, to += line_bytes(part)) {
    uint64_t from;
    if (find_source(part, row + i, &from))
      convert_row(w->u->d, part, part->row + from, w->row, to);
    else
      memset(to, 0, line_bytes(part));
  }
}

/* What the rows take in the file, about. */
static uint64_t file_bytes(const struct cuda_part *part, uint64_t n_rows) {
  if (part->kind == CUDA_PART_SCALES || part->kind == CUDA_PART_ORDER) return 0; /* counted with the codes */
  const struct tl_tensor *t = part->tensor;
  uint64_t elements = t->n_dims == 1 ? t->shape[0] : t->shape[0] * t->shape[1];
  double of_them = (double)(n_rows * part->n_columns) / (double)elements;
  if (part->order) of_them *= (double)part->order->size / (double)part->order->padded;
  return (uint64_t)((double)t->bytes * of_them);
}

static int send(struct uploader *w, const struct cuda_part *part, uint64_t piece, unsigned slot) {
  struct cuda_device *d = w->u->d;
  const struct cuda_runtime *rt = &d->api->rt;
  uint64_t most = rows_of_piece(part), row = piece * most, n = part->n_rows - row < most ? part->n_rows - row : most;
  size_t line = line_bytes(part);
  if (w->travelling[slot]) CUDA_TRY(d, rt->event_wait(w->events[slot]), "uploading the weights", &w->error);
  convert(w, part, row, n, w->buffers[slot]);
  char *to = part->to + row * part->pitch;
  if (part->pitch == line)
    CUDA_TRY(d, rt->copy(to, w->buffers[slot], n * line, w->stream), "uploading the weights", &w->error);
  else
    CUDA_TRY(d, rt->copy_rows(to, part->pitch, w->buffers[slot], line, line, n, w->stream), "uploading the weights",
             &w->error);
  CUDA_TRY(d, rt->event_record(w->events[slot], w->stream), "uploading the weights", &w->error);
  w->travelling[slot] = true;
  /* as if it were the whole model's: of that, a rank has one part of many */
  uint64_t read = file_bytes(part, n) * d->shard.size;
  /* relaxed: only shown */
  uint64_t done = atomic_fetch_add_explicit(&w->u->done, read, memory_order_relaxed) + read;
  uint64_t total = w->u->load->model->weight_bytes; /* without adapters, which go up too */
  if (w->reports && w->u->load->progress) w->u->load->progress(done < total ? done : total, total, w->u->load->context);
  return TL_OK;
}

/* --- threads ------------------------------------------------------------------------------------- */

static int open_uploader(struct uploader *w) {
  struct cuda_device *d = w->u->d;
  const struct cuda_runtime *rt = &d->api->rt;
  w->row = malloc(w->u->longest * sizeof *w->row);
  if (!w->row) return tl_error_set(&w->error, TL_ENOMEM, NULL, "out of memory");
  CUDA_TRY(d, rt->use((int)d->options.index), "choosing the device", &w->error);
  CUDA_TRY(d, rt->stream_new(&w->stream), "making a stream", &w->error);
  for (unsigned i = 0; i < 2; i++) {
    CUDA_TRY(d, rt->alloc_host((void **)&w->buffers[i], BUFFER_BYTES), "pinning a buffer for the weights", &w->error);
    CUDA_TRY(d, rt->event_new(&w->events[i]), "making an event", &w->error);
  }
  return TL_OK;
}

static int send_all(struct uploader *w) {
  struct upload *u = w->u;
  unsigned part = 0, slot = 0;
  uint64_t before = 0; /* pieces of the parts before */
  for (;;) {
    if (atomic_load_explicit(&u->failed, memory_order_relaxed)) return TL_OK; /* relaxed: a hint */
    uint64_t piece = atomic_fetch_add_explicit(&u->next, 1, memory_order_relaxed); /* relaxed: only divides the work */
    while (part < u->n_parts && piece - before >= pieces_of(&u->parts[part])) before += pieces_of(&u->parts[part++]);
    if (part == u->n_parts) break;
    int r = send(w, &u->parts[part], piece - before, slot);
    if (r < 0) return r;
    slot ^= 1;
  }
  return TL_OK;
}

static void *run(void *argument) {
  struct uploader *w = argument;
  const struct cuda_runtime *rt = &w->u->d->api->rt;
  w->result = open_uploader(w);
  if (w->result == TL_OK) w->result = send_all(w);
  for (unsigned i = 0; i < 2; i++) {
    /* also after an error: the buffer may still be read */
    int r = w->travelling[i] ? rt->event_wait(w->events[i]) : CUDA_OK;
    if (r && w->result == TL_OK) w->result = cuda_failed(w->u->d, r, "uploading the weights", &w->error);
  }
  for (unsigned i = 0; i < 2; i++) {
    if (w->events[i]) rt->event_free(w->events[i]);
    if (w->buffers[i]) rt->free_host(w->buffers[i]);
  }
  if (w->stream) rt->stream_free(w->stream);
  free(w->row);
  if (w->result < 0) atomic_store_explicit(&w->u->failed, true, memory_order_relaxed); /* relaxed: a hint */
  return NULL;
}

int cuda_upload(struct cuda_device *d, const struct cuda_part *parts, unsigned n_parts, const struct tl_device_load *load,
                struct tl_error *err) {
  struct upload u = {.d = d, .parts = parts, .n_parts = n_parts, .load = load, .longest = 1};
  struct uploader workers[MAX_THREADS] = {0};
  unsigned n = d->options.n_lanes < MAX_THREADS ? d->options.n_lanes : MAX_THREADS, started = 1;
  for (unsigned i = 0; i < n_parts; i++) {
    const struct tl_tensor *t = parts[i].tensor;
    if (line_bytes(&parts[i]) > BUFFER_BYTES)
      return tl_error_set(err, TL_EUNSUPPORTED, "model.path", "tensor '%.200s': rows of more than %zu MiB cannot be uploaded",
                          t->name, BUFFER_BYTES >> 20);
    if (t->n_dims > 1 && t->shape[1] > u.longest) u.longest = t->shape[1];
  }
  /* padding is zero: it takes part in sums */
  CUDA_TRY(d, d->api->rt.fill(d->weights, 0, d->weight_bytes, d->stream), "clearing the weights", err);
  CUDA_TRY(d, d->api->rt.event_record(d->done, d->stream), "clearing the weights", err);
  CUDA_TRY(d, d->api->rt.event_wait(d->done), "clearing the weights", err);
  for (unsigned i = 0; i < MAX_THREADS; i++) workers[i].u = &u;
  while (started < n && pthread_create(&workers[started].thread, NULL, run, &workers[started]) == 0) started++;
  workers[0].reports = true;
  run(&workers[0]);
  for (unsigned i = 1; i < started; i++) pthread_join(workers[i].thread, NULL);
  for (unsigned i = 0; i < started; i++) {
    if (workers[i].result == TL_OK) continue;
    *err = workers[i].error;
    return workers[i].result;
  }
  return TL_OK;
}
