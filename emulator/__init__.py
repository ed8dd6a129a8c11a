"""The load: how request rates and token counts move. It knows neither loop nor controller."""
