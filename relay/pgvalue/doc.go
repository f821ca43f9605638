// Package pgvalue reads PostgreSQL values in text output format, as the change
// stream carries them, and makes two things of them: JSON, and a form that can
// be compared.
//
// The JSON is what PostgreSQL's to_jsonb prints of the same value in a session
// with the settings the source pins: DateStyle ISO, TimeZone UTC,
// extra_float_digits at least 1, bytea_output hex. Nothing goes through a
// float: the digits of a numeric stay. Three things differ from to_jsonb:
//
//   - json and jsonb are passed as the server printed them, so a json column
//     keeps its spaces, its order and its duplicate keys;
//   - a type from an extension with a cast to json of its own, such as PostGIS
//     geometry, is a string (hstore is an object, as its cast makes it);
//   - text that is not what its type promises becomes a JSON string of that
//     text. No input is an error, because one odd value must not stop a stream.
//
// Bytes that are not UTF-8 (a SQL_ASCII database) become U+FFFD.
package pgvalue
