"""An example of each request body, by the name of its schema. Tests send those that need no other id to the API.

`client_id` and the ids of customers are the caller's own.
"""

from __future__ import annotations

from typing import Any, Final

_BATCH: Final = "0d9b6f0e-6c1f-4a53-9c56-5d0c2f2b7a11"
_CLIENT: Final = "7a4f8e5c-1d7b-4f0e-9b1e-2f6c3d5a9e10"
_CUSTOMER: Final = "c2a1d0b4-3f58-4e0c-8a57-6f1f0f4f2d21"
_CAMPAIGN: Final = "5b1c2d3e-4f5a-4b6c-8d7e-9f0a1b2c3d4e"

EXAMPLES: Final[dict[str, Any]] = {
    "Adjustment": {"points": -20, "reason": "counted twice"},
    "BatchChange": {"rules": {"maxpercustomer": 2, "timelimit": 30}, "ends_at": "2031-09-01T00:00:00+02:00"},
    "CampaignChange": {"total": 80},
    "CampaignRequest": {"campaignId": _CAMPAIGN},
    "Capture": {"points": 30},
    "CardAssignment": {"member": "kunde-7"},
    "CardRefund": {"entry": "7-2", "amount": 20, "reason": "returned"},
    "CardSpend": {"amount": 5},
    "CardTopUp": {"amount": 500},
    "ClientChange": {"name": "Band 42 (Tokyo)"},
    "CouponChange": {"availability_count": 200, "expiry_date": "2031-01-31"},
    "CreateCampaignRequest": {"name": "Night market", "total": 50, "startTime": "2026-06-01T11:00:00Z"},
    "Earn": {"amount": "142.50", "currency": "EUR", "order_id": "A-1001", "source": "shop"},
    "EntryReversal": {"points": 10, "reason": "returned"},
    "Generation": {"count": 100, "client_id": _CLIENT, "length": 10, "prefix": "SUMMER-"},
    "FealtyFields": {"email": "bea@example.org", "rewardpoints": 45, "marketing": False},
    "FealtyForm": {"email": "bea@example.org", "points": "45", "marketing": "false"},
    "MemberChange": {"phone": "+44 20 7946 0958", "marketing": True},
    "NewBatch": {
        "name": "Summer tour",
        "rules": {"maxpercustomer": 1, "timelimit": 0, "limits": [{"max": 1, "seconds": 3600}]},
        "ends_at": "2030-09-01T00:00:00+02:00",
    },
    "NewCampaign": {"name": "Night market", "total": 50, "starts_at": "2026-06-01T20:00:00+09:00", "public": True},
    "NewCards": {"count": 20},
    "NewClient": {"id": "band-42", "name": "Band 42"},
    "HookRotation": {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
    "NewHook": {"kind": "standard", "keeps_unknown": True},
    "NewHold": {"points": 50, "reason": "checkout"},
    "QuotasChange": {"codes": 100_000, "batches": 20},
    "NewKey": {"name": "till 7", "scopes": ["redeem"], "client_id": _CLIENT, "rate_limit": "100/s"},
    "NewMember": {"ref": "kunde-7", "email": "anna@example.org", "name": "Anna", "locale": "de-AT", "marketing": False},
    "NewOperator": {"name": "ada", "role": "operator"},
    "NewProgram": {
        "name": "Tea club",
        "client_id": _CLIENT,
        "timezone": "Europe/London",
        "terms": {
            "earn": {"points": 1, "per": "1.00", "currency": "EUR"},
            "expiry": {"end_of_year": 1},
            "tiers": [{"name": "gold", "lifetime": 1000}],
        },
    },
    "NewMerge": {"into": "kunde-8", "reason": "one person"},
    "NewPurchase": {"reward": "2c9a5f0e-8d1b-4c3e-9f4a-6b7c8d9e0f12"},
    "NewReward": {"name": "A mug", "cost": 50, "batch_id": _BATCH},
    "NewTransfer": {"from": "kunde-7", "to": "kunde-8", "points": 20, "reason": "a gift"},
    "Reveal": {"batch_id": _BATCH, "client_id": _CLIENT, "seq": 1},
    "Release": {"batch_id": _BATCH, "journals_replayed": True},
    "Retry": {"id": 7},
    "RewardChange": {"cost": 60, "ends_at": "2031-09-01T00:00:00+02:00"},
    "NewCoupon": {
        "code": "WELCOME-5",
        "availability_count": 100,
        "client_id": _CLIENT,
        "discount_fixed": "5.00",
        "currency": "EUR",
        "expiry_date": "2030-12-31",
    },
    "ProgramChange": {"terms": {"pending_days": 14}},
    "Redeem": {"batchid": _BATCH, "clientid": _CLIENT, "customerid": _CUSTOMER},
    "RedemptionRequest": {"batch": "Summer tour", "client": "band-42", "customer": "anna@example.org"},
    "Refund": {"order_id": "A-1001", "source": "shop", "amount_refunded": "2.50"},
    "Spend": {"points": 50, "reason": "cup of tea"},
    "Upload": {
        "file": f"client_id,code\n{_CLIENT},SUMMER-0001\n{_CLIENT},SUMMER-0002\n",
        "batch_name": "Summer tour",
        "rules": '{"maxpercustomer": 1, "timelimit": 0}',
    },
    "Use": {"code": "WELCOME-5", "customer_id": _CUSTOMER, "order_id": "A-1001", "client_id": _CLIENT},
}
