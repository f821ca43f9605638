// Made by rowhook types; do not edit. Receivers ignore attributes they do not know.

/** Any of the events. */
export type RowhookEvent = never;
