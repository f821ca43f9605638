package contract

import "fmt"

// AsyncAPI returns an AsyncAPI 3.0 document of the webhooks, as JSON: one
// channel, whose address is each endpoint's, and a message for each event.
func AsyncAPI(events []Event, title string) []byte {
	messages, inChannel, sent := schema{}, schema{}, []any{}
	for i := range events {
		e := &events[i]
		// A key may not have an @.
		key := fmt.Sprintf("%s.v%d", e.Type, e.Version)
		m := schema{
			"name": e.Name(), "title": e.Name(), "contentType": "application/json",
			"headers": schema{"$ref": "#/components/schemas/headers"}, "payload": schemaOf(e.Envelope()),
		}
		if e.Description != "" {
			m["summary"] = e.Description
		}
		messages[key] = m
		inChannel[key] = schema{"$ref": "#/components/messages/" + key}
		sent = append(sent, schema{"$ref": "#/channels/webhook/messages/" + key})
	}
	str := func(doc string) schema { return schema{"type": "string", "description": doc} }
	return indent(schema{
		"asyncapi": "3.0.0",
		"info":     schema{"title": title, "version": "1.0.0", "description": madeBy},
		"channels": schema{"webhook": schema{
			"address": nil, "messages": inChannel,
			"description": "POST to the URL of an endpoint; any 2xx is an acknowledgement.",
		}},
		"operations": schema{"deliver": schema{
			"action": "send", "channel": schema{"$ref": "#/channels/webhook"}, "messages": sent,
			"summary": "Every event that an endpoint wants is sent at least once, in order per key.",
		}},
		"components": schema{
			"messages": messages,
			"schemas": schema{"headers": schema{
				"type": "object", "required": []any{"webhook-id", "webhook-timestamp"},
				"properties": schema{
					"webhook-id":        str("The id of the event."),
					"webhook-timestamp": str("When this attempt was made, in seconds since 1970."),
					"webhook-signature": str("The signatures of Standard Webhooks 1.0, one for each secret."),
				},
			}},
		},
	})
}
