/* SPDX-License-Identifier: MIT */
/* From what a request's answer is held to, to a grammar, and a matcher for each of its sequences. The grammar is
 * compiled, or found in the thread's cache, where the request is read: on a text lane, or on the loop when there are none
 * (work.c). The matchers are made on the loop. */
#include "api/api_private.h"

int api_constrain(struct api_call *call, struct tl_error *err) {
  struct tl_grammar_source *source = &call->params.constraint;
  if (!source->field) return TL_OK;
  const struct api_work *work = &call->work;
  /* with lanes the caches are theirs */
  int r = call->api->lanes && !work->on_lane
              ? tl_grammar_compile(work->serving->vocabulary, source, NULL, &call->grammar, err)
              : api_grammar_cache_get(call->api->caches[work->on_lane ? work->job.lane : call->loop], work->serving->vocabulary, source,
                                      &call->grammar, err);
  json_decref(TL_TAKE(&source->json));
  return r;
}

int api_constrain_sequence(struct api_call *call, struct tl_sequence *seq, struct tl_error *err) {
  int r = call->grammar ? tl_matcher_new(call->grammar, &seq->matcher, err) : TL_OK;
  if (seq->matcher) api_reasoning_free_thoughts(call, seq->matcher);
  return r;
}

void api_constrain_done(struct api_call *call) {
  for (unsigned i = 0; i < call->n_choices; i++)
    if (call->choices[i].seq) tl_matcher_free(call->choices[i].seq->matcher);
  tl_grammar_release(call->grammar);
  json_decref(call->params.constraint.json);
}

void api_constrain_metrics(struct tl_api *api) {
  static const struct {
    enum tl_grammar_kind kind;
    const char *labels;
  } kinds[] = {{TL_GRAMMAR_JSON_OBJECT, "kind=\"json_object\""}, {TL_GRAMMAR_JSON_SCHEMA, "kind=\"json_schema\""},
               {TL_GRAMMAR_REGEX, "kind=\"regex\""}, {TL_GRAMMAR_CHOICE, "kind=\"choice\""}, {TL_GRAMMAR_GBNF, "kind=\"grammar\""},
               {TL_GRAMMAR_CALLS, "kind=\"tool_calls\""}};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    api->structured[kinds[i].kind] = tl_metrics_counter(api->o.metrics, "tokenlane_structured_requests_total",
                                                        "Generation requests whose answer was held to a form.", kinds[i].labels);
  api->structured[TL_GRAMMAR_ONE_CALL] = api->structured[TL_GRAMMAR_CALLS];
}
