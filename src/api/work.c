/* SPDX-License-Identifier: MIT */
/* Where a request is read. A small one at once, on its loop; a large one takes
 * long to parse, render and tokenize, and one with a grammar to compile that, so they go to
 * a text lane meanwhile, and the loop's other clients do not wait for it. */
#include <string.h>

#include "api/api_private.h"

#define LANE_MAX_BYTES ((int64_t)64 << 20) /* of bodies that wait: some seconds of work */
#define GRAMMAR_BYTES ((int64_t)64 << 10) /* a grammar is as much work as so many bytes of a body, about */

/* Whether a string that begins here may be the name of a field that has a grammar compiled. */
static bool begins_field(const char *text, size_t length) {
  static const struct {
    const char *name;
    size_t length;
  } names[] = {{"response_format", 15}, {"structured_outputs", 18}, {"guided_", 7}, {"grammar", 7}, {"json_schema", 11}, {"json_object", 11}, {"tool_choice", 11}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (length >= names[i].length && memcmp(text, names[i].name, names[i].length) == 0) return true;
  return false;
}

/* A body that says so elsewhere is read on a lane for nothing; so is one with \u005f, \u0061 and the like, by which a
 * client could write letters of these names, and which else are rare. */
bool api_work_has_grammar(struct tl_http_request *request) {
  size_t length;
  const char *text = tl_http_body(request, &length), *end = text + length, *at = text;
  while (at && at < end && (at = memchr(at, '"', (size_t)(end - at)))) {
    at++;
    if (begins_field(at, (size_t)(end - at))) return true;
  }
  for (at = text; at && (at = memmem(at, (size_t)(end - at), "\\u00", 4)); at += 4)
    if (end - at > 4 && at[4] >= '5' && at[4] <= '7') return true;
  return false;
}

/* What a work is counted as while it waits for a lane. */
static int64_t weight(const struct api_work *work) {
  return (int64_t)work->length + (work->has_grammar ? GRAMMAR_BYTES : 0);
}

void api_work_choose(struct api_work *work, unsigned model) {
  work->model = model;
  work->serving += model;
}

bool api_work_left(struct api_work *work) {
  return atomic_load_explicit(&work->left, memory_order_relaxed); /* a flag alone */
}

static void read_work(struct api_work *work) {
  uint64_t shortages = tl_json_shortages();
  int r = api_work_left(work) ? TL_ECLOSED : work->read(work, &work->err);
  bool whole = tl_json_shortages() == shortages; /* else it may have read, or refused, something else than what the client sent */
  if (r == TL_OK && whole)
    work->err.code = TL_OK;
  else if (!work->err.code || !whole)
    tl_error_set(&work->err, TL_ENOMEM, NULL, "out of memory");
}

static void on_lane(struct tl_text_job *job) {
  read_work((struct api_work *)(void *)job);
}

static void on_leave(struct tl_http_request *request) {
  struct api_work *work = tl_http_data(request);
  work->request = NULL;
  atomic_store_explicit(&work->left, 1, memory_order_relaxed); /* see api_work_left */
  tl_metrics_add(tl_http_shard(work->api->o.http, work->job.loop), work->api->cancelled, 1);
}

void api_work_done(struct tl_text_job *job) {
  struct api_work *work = (struct api_work *)(void *)job;
  struct tl_api *api = work->api;
  if (work->request) tl_http_on_abort(work->request, NULL);
  atomic_fetch_sub_explicit(&api->lane_bytes, weight(work), memory_order_relaxed); /* a bound, no more */
  tl_buffer_done(&work->bytes);
  work->finish(work);
  atomic_fetch_sub_explicit(&api->active, 1, memory_order_relaxed); /* a count alone; after what finish has added */
}

bool api_work_run(struct api_work *work, struct tl_api *api, struct tl_http_request *request) {
  TL_ASSERT_ROLE(TL_ROLE_LOOP);
  work->api = api;
  work->request = request;
  work->serving = api_serving(api, &work->err);
  if (!work->serving) {
    api_respond_error(request, &work->err, 1);
    return false;
  }
  work->text = tl_http_body(request, &work->length);
  if (!api->lanes || (work->length < API_LANE_BYTES && !work->has_grammar)) {
    read_work(work);
    work->finish(work);
    return true;
  }
  if (atomic_load_explicit(&api->lane_bytes, memory_order_relaxed) > LANE_MAX_BYTES) { /* a bound, no more */
    tl_error_set(&work->err, TL_EBUSY, NULL, "too many large requests wait to be read; try again later");
    api_respond_error(request, &work->err, 1);
    return false;
  }
  work->on_lane = true;
  tl_http_take_body(request, &work->bytes);
  work->text = work->bytes.data;
  atomic_fetch_add_explicit(&api->lane_bytes, weight(work), memory_order_relaxed); /* a bound, no more */
  work->job.run = on_lane;
  work->job.loop = tl_http_loop(request);
  tl_http_set_data(request, work);
  tl_http_on_abort(request, on_leave);
  atomic_fetch_add_explicit(&api->active, 1, memory_order_relaxed); /* a count alone */
  tl_text_lanes_submit(api->lanes, &work->job);
  return true;
}
