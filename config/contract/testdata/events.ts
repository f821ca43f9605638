// Made by rowhook types; do not edit. Receivers ignore attributes they do not know.

/** An order was paid in full. */
export interface OrderPaidV1 {
  /** The id of an event. It never changes: receive each id once. */
  id: string;
  type: "order.paid";
  /** The version of the data. */
  version: 1;
  /** When the change was committed. */
  timestamp: string;
  /** The database the change is of. */
  source: string;
  /** Events of one key arrive in order; null promises none. */
  key: string;
  /** The customer the event is about. */
  tenant?: string;
  /** The place of an event: it orders those of one source as strings. */
  sequence: string;
  /** The table the change is of. */
  table: "public.orders";
  /** What happened to the row. */
  op: "insert" | "update";
  /** Columns that did not change and that the server therefore did not send: what is made of them is left out of data. */
  unchanged?: Array<string>;
  data: {
    /** It may have more digits than a number of JavaScript; with numbers = "string" the rule sends all of them. */
    id: number;
    five: number;
    status: "paid" | "re funded" | null;
    kind: "order";
    /** A time as in RFC 3339; PostgreSQL's infinity and -infinity too. */
    at: string;
    /** A UUID, in lower case. */
    uid: string | null;
    /** It may have more digits than a number of JavaScript; with numbers = "string" the rule sends all of them. */
    ratio: number | "NaN" | "Infinity" | "-Infinity";
    ok: boolean;
    items: Array<{
      sku: string;
      qty: number | null;
    }>;
    /** It may have more digits than a number of JavaScript; with numbers = "string" the rule sends all of them. */
    "odd \"name\""?: number | string;
    doc: unknown;
    some: boolean | number | string | Array<unknown> | {
      [name: string]: unknown;
    };
    map: {
      [name: string]: boolean | null;
    };
    /** Left out where it did not change and was not sent. */
    note?: string;
    void: null;
    /** In cents. * / It may have more digits than a number of JavaScript; with numbers = "string" the rule sends all of them. */
    total: number;
  };
}

export interface OrderPaidV2 {
  /** The id of an event. It never changes: receive each id once. */
  id: string;
  type: "order.paid";
  /** The version of the data. */
  version: 2;
  /** When the change was committed. */
  timestamp: string;
  /** The database the change is of. */
  source: string;
  /** Events of one key arrive in order; null promises none. */
  key: string | null;
  /** The place of an event: it orders those of one source as strings. */
  sequence: string;
  data: unknown;
}

/** Any of the events. */
export type RowhookEvent = OrderPaidV1 | OrderPaidV2;
