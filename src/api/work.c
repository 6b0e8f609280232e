/* SPDX-License-Identifier: MIT */
/* Where a request is read. A small one at once, on its loop; a large one takes
 * long to parse, render and tokenize, and goes to a text lane meanwhile, so that
 * the loop's other clients do not wait for it. */
#include "api/api_private.h"

#define LANE_BYTES 8192 /* about 100 us of work */

static void on_lane(struct tl_text_job *job) {
  struct api_work *work = (struct api_work *)(void *)job;
  if (work->read(work, &work->err) == TL_OK) work->err.code = TL_OK;
}

static void on_leave(struct tl_http_request *request) {
  struct api_work *work = tl_http_data(request);
  work->request = NULL;
  tl_metrics_add(tl_http_shard(work->api->o.http, work->job.loop), work->api->cancelled, 1);
}

void api_work_done(struct tl_text_job *job) {
  struct api_work *work = (struct api_work *)(void *)job;
  struct tl_api *api = work->api;
  if (work->request) tl_http_on_abort(work->request, NULL);
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
  if (!api->lanes || work->length < LANE_BYTES) {
    on_lane(&work->job);
    work->finish(work);
    return true;
  }
  tl_http_take_body(request, &work->bytes);
  work->text = tl_buffer_string(&work->bytes);
  work->job.run = on_lane;
  work->job.loop = tl_http_loop(request);
  tl_http_set_data(request, work);
  tl_http_on_abort(request, on_leave);
  atomic_fetch_add_explicit(&api->active, 1, memory_order_relaxed); /* a count alone */
  tl_text_lanes_submit(api->lanes, &work->job);
  return true;
}
